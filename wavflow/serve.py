"""`python -m wavflow.serve`: audio, likelihoods and streams over HTTP and WebSocket; see conf/serve.yaml."""

from wavflow.cli import command

main = command("serve", lists=("model", "hosts"))

if __name__ == "__main__":
    main()
