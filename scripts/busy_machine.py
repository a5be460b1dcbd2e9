"""Counts the training steps of 40 seconds on a quiet machine, and beside one process that never sleeps.

    python scripts/busy_machine.py

Each run is a process of its own, which chooses its threads as any command does; the first one fills the caches and does not
count. At least half of the quiet steps should be left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 40
COMMAND = ["-m", "wavflow.train", "experiment=cpu_small", "stage=student", "teacher=lj-teacher", "audio=22k", "data=bundled"]


def steps() -> int:
    """Trains for `SECONDS` in a new folder; returns the steps taken."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, *COMMAND, f"minutes={SECONDS / 60}", f"output={folder}/run"], check=True, capture_output=True
        )
        curves = (Path(folder) / "run" / "logs" / "metrics.csv").read_text().splitlines()
    return int(curves[-1].split(",")[curves[0].split(",").index("step")])


if __name__ == "__main__":
    steps()
    quiet = steps()
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        busy = steps()
    finally:
        spinning.kill()
    print(f"{os.cpu_count()} processors, {SECONDS} s: {quiet} steps alone, {busy} beside a process that never sleeps")
