"""`python -m wavflow.train stage=teacher | stage=student | stage=flow`: trains one stage; see conf/train.yaml."""

from wavflow.cli import command

main = command("train")

if __name__ == "__main__":
    main()
