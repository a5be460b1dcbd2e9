"""`python -m wavflow.evaluate`: metrics, report and listening test, of models or of folders; see conf/evaluate.yaml."""

from wavflow.cli import command

main = command("evaluate", lists=("model", "generated"), plain="model")

if __name__ == "__main__":
    main()
