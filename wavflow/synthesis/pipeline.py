"""Threads that take the parts of a signal through the stages of a draw."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

AHEAD = 48  # parts on the way at once, at most: memory does not grow with the length


@dataclass(eq=False)
class _Stage:
    work: Callable[[int], None]  # takes the part of that number
    before: _Stage | None
    done: int = 0  # parts
    busy: bool = False


class Pipeline:
    """Takes parts through stages. Each stage takes them in order, each part after the stage before it.

    Threads share the work. Each takes the next part of any stage that is ready, so that none waits while there is one::

        source     0 1 2 3 4 5
        stage 1      0 1 2 3 4 ...
        stage 2        0 1 2 3 ...

    Iterating gives each part that all stages have taken. The caller's thread helps until there is one; the others go on while
    the caller works with it.

    Args:
        source: Gives the parts.
        chains: Stages in their order. Chains do not wait for each other.
        pool: Has the other threads.
        threads: How many, the caller's included.
    """

    def __init__(
        self, source: Iterator[Any], chains: Sequence[Sequence[Callable[[Any], None]]], pool: Executor, threads: int
    ) -> None:
        self.iterator, self.pool, self.threads = source, pool, threads
        self.parts: dict[int, Any] = {}  # on the way
        self.source = _Stage(self._next_part, None)
        self.stages, self.ends = [self.source], []
        for chain in chains:
            before = self.source
            for stage in chain:
                before = _Stage(partial(self._take, stage), before)
                self.stages.append(before)
            self.ends.append(before)
        self.given, self.ended, self.stopped, self.changed = 0, False, False, threading.Condition()

    def __iter__(self) -> Iterator[Any]:
        others = [self.pool.submit(self._work) for _ in range(self.threads - 1)]
        try:
            while True:
                self._work(self.given + 1)
                if self._finished() == self.given:
                    break
                yield self.parts.pop(self.given)
                with self.changed:
                    self.given += 1
                    self.changed.notify_all()
        finally:
            with self.changed:
                self.stopped = True
                self.changed.notify_all()
            for other in others:
                if not other.cancel():  # one that the pool has not begun
                    other.result()

    def _finished(self) -> int:
        return min(stage.done for stage in self.ends)

    def _next_part(self, n: int) -> None:
        part = next(self.iterator, None)
        self.ended = part is None
        if not self.ended:
            self.parts[n] = part

    def _take(self, stage: Callable[[Any], None], n: int) -> None:
        stage(self.parts[n])

    def _ready(self, stage: _Stage) -> bool:
        if stage.before is None:
            return not (stage.busy or self.ended) and stage.done < self.given + AHEAD
        return not stage.busy and stage.done < stage.before.done

    @torch.no_grad()
    def _work(self, parts: float = math.inf) -> None:
        """Takes what is ready until a number of parts, or all that there are, have passed all stages."""
        with self.changed:
            while not self.stopped and self._finished() < parts and not (self.ended and self._finished() == self.source.done):
                stage = next(filter(self._ready, reversed(self.stages)), None)  # the last stages first: parts leave soon
                if stage is None:
                    self.changed.wait()
                    continue
                stage.busy = True
                self.changed.release()
                try:
                    stage.work(stage.done)
                except BaseException:
                    self.stopped = True
                    raise
                finally:
                    self.changed.acquire()
                    stage.busy = False
                    stage.done += not (stage is self.source and self.ended)
                    self.changed.notify_all()
