"""Long signals in segments, each with the context that what is computed from it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Segment(NamedTuple):
    """Frames `first` to `last` of a signal, and what is read for them: `start` to `stop`; all as of a slice."""

    first: int
    last: int
    start: int
    stop: int

    def read(self, hop_length: int = 1) -> slice:
        """Returns what to read, in samples where there is a hop length."""
        return slice(self.start * hop_length, self.stop * hop_length)

    def keep(self, hop_length: int = 1) -> slice:
        """Returns what to keep of that."""
        return slice((self.first - self.start) * hop_length, (self.last - self.start) * hop_length)


def segments(frames: int, size: int, left: int, right: int) -> Iterator[Segment]:
    """Yields the segments of a signal of so many frames, `size` frames each, with `left` and `right` frames of context."""
    for first in range(0, frames, size):
        last = min(first + size, frames)
        yield Segment(first, last, max(0, first - left), min(last + right, frames))
