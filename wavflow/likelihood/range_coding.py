"""Range coding in integers: each symbol narrows the range to its interval, and the bytes name a number within the range.

A symbol's interval is a start and a width, in units of 2^-30 of the range. The range has 64 bits, of which the upper 8 are
never all zero: rounding to units costs next to nothing.

References:
    Martin (1979), Range encoding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wavflow.kernels.compiling import compiled
from wavflow.likelihood.arithmetic import exp, normal_cdf

PRECISION = 30
WHOLE = 2**PRECISION
GAUSSIAN, LOGISTIC, LAPLACE = range(3)
_PRECISION, _BYTE, _TOP, _LEAST = (np.uint64(n) for n in (PRECISION, 8, 56, 2**56))


class Coder(NamedTuple):
    """A writer or a reader, made by `writer` or `reader`."""

    data: np.ndarray  # uint8
    at: np.ndarray  # (1,) int64: bytes written, or read
    state: np.ndarray  # (2,) uint64: the start of the range (in a reader the number read, less that start), and its length
    reads: bool


def writer(size: int) -> Coder:
    """Returns a writer with room for `size` bytes, and the few that end them."""
    return Coder(np.zeros(size + 16, np.uint8), np.zeros(1, np.int64), np.array([0, 2**64 - 1], np.uint64), False)


def reader(data: bytes) -> Coder:
    """Returns a reader of data, which reads zeros after their end."""
    start = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
    return Coder(np.frombuffer(data, np.uint8).copy(), np.array([8]), np.array([start, 2**64 - 1], np.uint64), True)


def written(coder: Coder) -> bytes:
    """Returns all that a writer wrote, and a last byte that names a number in its range; nothing can be written after that."""
    number = int(coder.state[0]) + 2**56 - 1
    if number >= 2**64:
        _carry(coder.data, coder.at[0])
    coder.data[coder.at[0]] = number >> 56 & 255
    return coder.data[: coder.at[0] + 1].tobytes()


@compiled
def put(coder: Coder, start: int, width: int) -> None:
    """Writes the symbol of an interval."""
    data, at, state = coder.data, coder.at, coder.state
    unit = state[1] >> _PRECISION
    low = state[0] + unit * np.uint64(start)
    if low < state[0]:
        _carry(data, at[0])
    length = unit * np.uint64(width)
    while length < _LEAST:
        data[at[0]] = low >> _TOP
        at[0] += 1
        low, length = low << _BYTE, length << _BYTE
    state[0], state[1] = low, length


@compiled
def put_all(coder: Coder, intervals: np.ndarray) -> None:
    """Writes symbols, given start and width of each, (n, 2)."""
    for i in range(len(intervals)):
        put(coder, intervals[i, 0], intervals[i, 1])


@compiled
def peek(coder: Coder) -> int:
    """Returns a unit within the interval of the next symbol."""
    return min(np.int64(coder.state[0] // (coder.state[1] >> _PRECISION)), WHOLE - 1)


@compiled
def take(coder: Coder, start: int, width: int) -> None:
    """Reads the symbol of an interval, once `peek` has told it."""
    data, at, state = coder.data, coder.at, coder.state
    unit = state[1] >> _PRECISION
    behind, length = state[0] - unit * np.uint64(start), unit * np.uint64(width)
    while length < _LEAST:
        byte = data[at[0]] if at[0] < len(data) else np.uint8(0)
        at[0] += 1
        behind, length = (behind << _BYTE) | np.uint64(byte), length << _BYTE
    state[0], state[1] = behind, length


@compiled
def transfer(coder: Coder, start: int, width: int) -> None:
    """Reads or writes the symbol of an interval."""
    if coder.reads:
        take(coder, start, width)
    else:
        put(coder, start, width)


@compiled
def start_of(symbol: int, lowest: int, highest: int, mixture: np.ndarray, kind: int) -> int:
    """Returns the start of a symbol's interval; of `highest + 1` it is the end of the range. Each is at least a unit wide.

    Args:
        symbol: From `lowest` to `highest + 1`.
        lowest: The first symbol; it has all that is below it, too.
        highest: The last one.
        mixture: (3, K): weights, centers and scales, in symbols.
        kind: Of the components.
    """
    if symbol <= lowest:
        return 0
    if symbol > highest:
        return WHOLE
    # Half a unit less, so that a cdf of 1 and the number before 1 give the same start.
    return int(cdf(symbol - 0.5, mixture, kind) * (WHOLE - (highest - lowest + 1) - 0.5)) + symbol - lowest


@compiled
def cdf(x: float, mixture: np.ndarray, kind: int) -> float:
    """Returns the probability of what is below x."""
    below = 0.0
    for i in range(mixture.shape[1]):
        z = (x - mixture[1, i]) / mixture[2, i]
        if kind == GAUSSIAN:
            below += mixture[0, i] * normal_cdf(z)
        elif kind == LOGISTIC:
            below += mixture[0, i] / (1.0 + exp(-z))
        else:
            below += mixture[0, i] * (0.5 * exp(z) if z < 0.0 else 1.0 - 0.5 * exp(-z))
    return min(below, 1.0)


@compiled
def find(unit: int, lowest: int, highest: int, mixture: np.ndarray, kind: int) -> int:
    """Returns the symbol whose interval holds a unit."""
    low, high = lowest, highest
    while low < high:
        middle = (low + high + 1) // 2
        if start_of(middle, lowest, highest, mixture, kind) <= unit:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def code(coder: Coder, symbol: int, lowest: int, highest: int, mixture: np.ndarray, kind: int) -> int:
    """Writes a symbol, or reads the next one; returns it."""
    if coder.reads:
        symbol = find(peek(coder), lowest, highest, mixture, kind)
    start = start_of(symbol, lowest, highest, mixture, kind)
    transfer(coder, start, start_of(symbol + 1, lowest, highest, mixture, kind) - start)
    return symbol


@compiled
def code_rare(coder: Coder, event: bool) -> bool:
    """Writes whether an event of probability 1 / 64 happened, or reads it; returns it."""
    common = WHOLE - WHOLE // 64
    if coder.reads:
        event = peek(coder) >= common
    transfer(coder, common if event else 0, WHOLE - common if event else common)
    return event


@compiled
def code_evenly(coder: Coder, symbols: np.ndarray, lowest: int, bits: int) -> None:
    """Writes symbols (n,) of `bits` bits each, from `lowest` on, or fills them as it reads."""
    width = WHOLE >> bits
    for i in range(len(symbols)):
        if coder.reads:
            symbols[i] = peek(coder) // width + lowest
        transfer(coder, (int(symbols[i]) - lowest) * width, width)


@compiled
def _carry(data, at):
    at -= 1
    while data[at] == 255:
        data[at] = 0
        at -= 1
    data[at] += 1
