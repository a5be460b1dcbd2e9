"""`python -m wavflow.compress input=a.wav output=a.wavflow`: lossless audio coding with a teacher; see conf/compress.yaml."""

from wavflow.cli import command

main = command("compress", plain="input")

if __name__ == "__main__":
    main()
