"""Trains by the command in processes that are killed (`kill -9`) at random, and go on by resume=auto until they are through.

    python killer.py <folder> <seed> <kills> <option of wavflow.train> ...

All are forked from one process that has imported wavflow, or most of the time would go into imports. Every other one is
killed at a random time after it has begun to write. The rest kill themselves at a random one of their own accesses to the
disk (a file opened for writing, renamed or removed), so that the moments of saving are hit for certain. A run that comes to
its end before all kills are spent leaves its folder, and the next one begins in another. Before them, one that is never
killed trains in the folder `whole`. Prints what was done as JSON.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import wavflow.commands.train
import wavflow.train


def watch(folder: str, begun: int, die_at: int | None) -> None:
    """Says when this process is about to change the disk below a folder, and kills it when that is for the n-th time."""
    seen = 0

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if (writes or event in ("os.rename", "os.remove", "os.mkdir")) and str(arguments[0]).startswith(folder):
            seen += 1
            if seen == 1:
                os.write(begun, b".")
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def live(options: list[str], folder: Path, begun: int, die_at: int | None) -> None:
    """What the forked process does: train, and never return."""
    status = 1
    try:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["wavflow.train", *options, f"output={folder}", "resume=auto"]
        watch(str(folder), begun, die_at)
        wavflow.train.main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def main() -> None:
    """See the module."""
    root, rng, kills, options = Path(sys.argv[1]), random.Random(int(sys.argv[2])), int(sys.argv[3]), sys.argv[4:]
    done: list[str] = []
    runs = 0
    while runs < 2 or len(done) < kills:
        folder, status = root / (f"run-{runs}" if runs else "whole"), None
        while status != 0:
            left = (kills - len(done)) * bool(runs)
            die_at = rng.randrange(1, 60) if left and len(done) % 2 else None
            delay = rng.uniform(0.0, 2.0) if left and die_at is None else None
            begun, begins = os.pipe()
            child = os.fork()
            if child == 0:
                live(options, folder, begins, die_at)
            os.close(begins)
            os.read(begun, 1)
            os.close(begun)
            if delay is not None:
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == -signal.SIGKILL:
                done.append(f"access {die_at}" if delay is None else f"after {delay:.2f} s")
            elif status != 0:
                sys.exit(folder.with_suffix(".log").read_text()[-4000:])
        runs += 1
    print(json.dumps({"runs": runs, "kills": done}))


if __name__ == "__main__":
    main()
