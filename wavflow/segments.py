"""Cuts a long signal into segments that are read with some context on either side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Segment(NamedTuple):
    """One segment of a signal: frames `first` to `last`, excluded, and with their context `start` to `stop`, excluded."""

    first: int
    last: int
    start: int
    stop: int

    def read(self, hop_length: int = 1) -> slice:
        """Returns the slice of the signal to read: in frames, or in samples where `hop_length` is given."""
        return slice(self.start * hop_length, self.stop * hop_length)

    def keep(self, hop_length: int = 1) -> slice:
        """Returns the slice of what was read that is the segment without its context."""
        return slice((self.first - self.start) * hop_length, (self.last - self.start) * hop_length)


def segments(frames: int, size: int, left: int, right: int) -> Iterator[Segment]:
    """Yields the segments of a signal of `frames` frames, `size` frames each, with `left` and `right` frames of context."""
    for first in range(0, frames, size):
        last = min(first + size, frames)
        yield Segment(first, last, max(0, first - left), min(last + right, frames))
