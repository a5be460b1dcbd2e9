"""`python -m wavflow.benchmark`: how fast models sample and train and data are read; see conf/benchmark.yaml."""

from wavflow.cli import command

main = command("benchmark", lists=("part", "model", "lengths"))

if __name__ == "__main__":
    main()
