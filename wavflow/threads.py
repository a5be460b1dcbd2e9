"""How many threads torch takes, and how they wait: OpenMP reads it from the environment, once, when torch is imported."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def set_defaults(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the user has not set: no more threads than processors, and threads that sleep while they wait.

    OpenMP's own default lets a thread spin until the others are done. Where another process has one of the processors, the
    threads then wait for the one that is not running, and training takes up to ten times as long.
    """
    if "OMP_WAIT_POLICY" not in environ and "GOMP_SPINCOUNT" not in environ:
        environ["OMP_WAIT_POLICY"], environ["GOMP_SPINCOUNT"] = "PASSIVE", "0"
    if "OMP_NUM_THREADS" not in environ and quota() < affinity():
        environ["OMP_NUM_THREADS"] = str(processors())


def processors() -> int:
    """Returns how many processors are free to this process: those it may run on, and no more than a container's quota."""
    return math.ceil(min(affinity(), quota()))


def affinity() -> int:
    """Returns how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(cgroup: Path = CGROUP) -> float:
    """Returns how many processors a container may use at a time, by cgroup 2 or 1; infinity where nothing limits it."""
    try:
        if (limits := cgroup / "cpu.max").exists():
            most, period = limits.read_text().split()
        else:
            most, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(most) / float(period) if float(most) > 0 else math.inf
    except (OSError, ValueError):  # "max", or no such file
        return math.inf
