"""How long something takes: warm-up, repeats, median and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from wavflow.arguments import choose

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class Timing(NamedTuple):
    """Seconds of each repeat."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """In seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between them lies half of the repeats, in seconds."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float(low), float(high)

    @property
    def best(self) -> float:
        """In seconds."""
        return min(self.seconds)

    @property
    def row(self) -> dict[str, Any]:
        """The columns that each table has."""
        return {"median s": self.median, "quartiles s": self.quartiles, "runs s": self.seconds}


@dataclass(frozen=True)
class Stopwatch:
    """Times calls on a device.

    Args:
        device: Waited for before a clock is read: a GPU's work goes on after the call.
        repeats: Calls to time, at most.
        budget: Seconds after which no more repeat is begun; one is always timed.
        clock: "wall"; or "processor", the time that the process was given, for a machine that others use too. Of use
            on a CPU with one thread alone.
    """

    device: torch.device
    repeats: int = 5
    budget: float = float("inf")
    clock: str = "wall"

    def __post_init__(self) -> None:
        choose("clock", self.clock, CLOCKS)

    def __call__(self, run: Callable[[], Any], warm_up: bool = True) -> Timing:
        """Times `run`; the warm-up, which loads and compiles what is needed, counts for nothing."""
        if warm_up:
            run()
        seconds: list[float] = []
        while len(seconds) < self.repeats and (not seconds or sum(seconds) < self.budget):
            started = self._now()
            run()
            seconds.append(self._now() - started)
        return Timing(seconds)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return CLOCKS[self.clock]()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
