"""Everything to run on a machine with a GPU, in one command: checks, figures, and training for the time that is left.

    python scripts/gpu_session.py --data LJ --output out --minutes 9 --train-minutes 8
    python scripts/gpu_session.py --data LJ --output out --minutes 9 --train-minutes 8 --steps train
    python scripts/gpu_session.py --tiny --minutes 2                        # to try it, on a CPU

Call it as often as you like: training goes on where it stopped, as long as runs/gpu is there. Install wavflow first
(`pip install -e .`). Each step is a process of its own, so that one that fails does not end the others; each kind of figures
gets a fifth of the time at most.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

FIGURES = {
    "tests": ["-m", "pytest", "-q", "-W", "default", "tests/test_vocoder.py", "tests/test_wavenet.py"],
    "synthesis": ["-m", "wavflow.benchmark", "part=synthesis", "model=[student,teacher]"],
    "training": ["-m", "wavflow.benchmark", "part=training", "model=[student,teacher]", "data.batch_size=16"],
}
TRAINED = Path("runs/gpu")
SMALL = ["model=[student_small,teacher_small]", "seconds=0.05", "budget=0", "data.batch_size=2", "data.segment_length=1024"]
TINY = ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.precision=32-true", "net.layers=2", "net.channels=4"]
TINY += ["data.batch_size=2", "data.segment_length=1024", "data.max_clip_seconds=0.25"]


def main() -> None:
    """Runs the steps, each in its own process, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="wavflow/assets/speech", help="a folder of audio to train on (the bundled one)")
    parser.add_argument("--output", type=Path, default=TRAINED, help=f"a folder for figures and models (default: {TRAINED})")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument("--train-minutes", type=float, default=25.0, help="of each stage, over all calls (default: 25)")
    parser.add_argument("--steps", default=",".join([*FIGURES, "train"]), help="(default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="tiny nets, and two steps of training")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60.0 * args.minutes
    for name in args.steps.split(","):
        if name != "train":
            until = min(end, time.monotonic() + 12.0 * args.minutes)
            options = [] if name == "tests" else [f"output={args.output / name}", *SMALL * args.tiny]
            status = call([*FIGURES[name], *options], until)
            print(f"{name}: status {status}", flush=True)
        elif not train(args, end):
            break


def train(args: argparse.Namespace, end: float) -> bool:
    """Trains the teacher, then the student, as far as the time goes; returns whether both are through."""
    for stage in ("teacher", "student"):
        run = TRAINED / ("tiny" if args.tiny else "full") / stage
        options = [f"stage={stage}", f"data.path={args.data}", f"minutes={args.train_minutes}", f"output={run}", "resume=auto"]
        options += [f"teacher={run.parent / 'teacher' / 'model.safetensors'}"] * (stage == "student")
        status = call(
            ["-m", "wavflow.train", "experiment=lj_h200", "+trainer.enable_progress_bar=false", *options, *TINY * args.tiny],
            end,
        )
        print(f"{stage}: status {status}", flush=True)
        for made, kept in (("model.safetensors", f"{stage}.safetensors"), ("logs/metrics.csv", f"{stage}.csv")):
            if (run / made).is_file():
                shutil.copy(run / made, args.output / kept)
        if status:
            return False
    return True


def call(command: list[str], end: float) -> int:
    """Runs Python and returns its status; at the end of the time it and its children get SIGTERM, on which a training saves."""
    process = subprocess.Popen([sys.executable, *command], start_new_session=True)
    for told in (end - time.monotonic() - 20.0, 20.0):
        try:
            return process.wait(max(0.1, told))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


if __name__ == "__main__":
    main()
