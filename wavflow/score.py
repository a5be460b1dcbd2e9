"""`python -m wavflow.score input=wavs/`: likelihood of recordings, ranked by surprise; see conf/score.yaml."""

from wavflow.cli import command

main = command("score", lists=("input",), plain="input")

if __name__ == "__main__":
    main()
