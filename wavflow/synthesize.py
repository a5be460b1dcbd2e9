"""`python -m wavflow.synthesize input=... output=...`: audio from mels, other audio or nothing; see conf/synthesize.yaml."""

from wavflow.cli import command

main = command("synthesize", lists=("input",), plain="input")

if __name__ == "__main__":
    main()
