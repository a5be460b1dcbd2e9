"""`python -m wavflow.export model=... output=student.onnx`: a student for other runtimes; see conf/export.yaml."""

from wavflow.cli import command

main = command("export", plain="model")

if __name__ == "__main__":
    main()
