"""`python -m wavflow.speak "Some text." output=speech.wav`: speech from text; see conf/speak.yaml."""

from wavflow.cli import command

main = command("speak", plain="text")

if __name__ == "__main__":
    main()
