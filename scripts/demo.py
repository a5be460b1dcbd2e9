"""The main job, end to end, in minutes: trains a small teacher, distils a student from it, and writes a report.

First the student that comes with wavflow speaks; it was trained for longer, and on another voice.

    python scripts/demo.py                          # the bundled corpus, as `make demo` does
    python scripts/demo.py --data wavs/ --minutes 60 --output my-voice

It only calls the commands that you would call, and prints them.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

RELEASED = Path(__file__).resolve().parents[1] / "wavflow" / "assets" / "models"  # models, and a clip none of them has seen


def main() -> None:
    """Runs the commands of the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="demo", help="folder of the runs and the report (default: demo)")
    parser.add_argument("--minutes", type=float, default=6.5, help="of training, both stages together (default: 6.5)")
    parser.add_argument("--data", help="a folder of audio; the bundled corpus if not given")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for both training commands, e.g. trainer.accelerator=cpu")
    args = parser.parse_args()
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes}")

    started = time.perf_counter()
    root = Path(args.output)
    data = [] if args.data is None else ["data=folder", f"data.path={args.data}"]
    training = [*data, "data.batch_size=4", "trainer.precision=auto", *args.overrides]
    speech = root / "speech"
    speaks = (RELEASED / "lj-student.safetensors").is_file()
    if speaks:
        run("synthesize", "model=lj-student", f"input={RELEASED / 'LJ027-0006.flac'}", f"output={speech / 'lj-student'}")
        run("evaluate", f"reference={RELEASED}", f"generated={speech / 'lj-student'}", f"output={speech / 'report'}")
    teacher, student = root / "teacher" / "model.safetensors", root / "student" / "model.safetensors"
    stages = [
        ("teacher", 0.45, [*training, "stage.optimizer.lr=2e-3", "trainer.val_check_interval=100"]),
        ("student", 0.55, [*training, f"teacher={teacher}", "trainer.val_check_interval=50"]),
    ]
    for stage, fraction, options in stages:
        budget = f"minutes={args.minutes * fraction}"
        place = [f"output={root / stage}", "overwrite=true"]
        run("train", f"stage={stage}", f"net={stage}_small", budget, *place, *options)
    chosen = [f"teacher={teacher}", f"student={student}"]
    chosen += [f"see_also={speech / 'report' / 'report.html'}"] if speaks else []
    run("evaluate", *chosen, *data, "clips=3", "seconds=3", f"output={root / 'report'}")
    minutes = (time.perf_counter() - started) / 60
    print(f"\nThe demo took {minutes:.1f} minutes. Look and listen: {root / 'report' / 'report.html'}")
    if speaks:
        print(
            f"The student that comes with wavflow, beside the LJSpeech recording it copies: {speech / 'report' / 'report.html'}"
        )
    print(f"Your own audio through the student: {sys.executable} -m wavflow.synthesize model={student} input=<a recording>")


def run(command: str, *options: str) -> None:
    """Runs one of wavflow's commands in a process of its own, and ends with its status where it fails or is stopped."""
    print(f"\n$ python -m wavflow.{command} {' '.join(options)}", flush=True)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process, which then ends the other
    process = subprocess.Popen([sys.executable, "-m", f"wavflow.{command}", *options])
    signal.signal(signal.SIGINT, interrupt)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        told = process.wait() > 0  # by a training, which has saved
        sys.exit(130 if told else "\nThe demo was interrupted: the same command begins it anew.")
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
