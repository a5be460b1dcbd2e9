"""Range coding by constriction, to and fro through one function."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Coder = Callable[[int, Any], int]
"""Takes a symbol and its model and returns the symbol: a writer's own, a reader's whatever it was given."""


def constriction() -> ModuleType:
    """Imports the library.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise ImportError("Coding needs constriction, which is not installed: pip install 'wavflow[compress]'.") from error
    return constriction


class Writer:
    """A range encoder; `words` is what it has written, `bits` how much that is."""

    def __init__(self) -> None:
        self._encoder = constriction().stream.queue.RangeEncoder()

    def __call__(self, symbol: int, model: Any) -> int:
        """Writes a symbol."""
        self._encoder.encode(symbol, model)
        return symbol

    @property
    def bits(self) -> int:
        """So far."""
        return self._encoder.num_bits()

    def words(self) -> bytes:
        """Returns all of it, in words of 32 bits, the low byte first."""
        return self._encoder.get_compressed().astype("<u4").tobytes()


class Reader:
    """A range decoder of what a `Writer` wrote."""

    def __init__(self, words: bytes) -> None:
        self._decoder = constriction().stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def __call__(self, symbol: int, model: Any) -> int:
        """Reads the next symbol."""
        return self._decoder.decode(model)
