"""Linear recursions on a GPU, as Triton kernels: a program for each signal, which it goes through in order.

Eager PyTorch would start some ten kernels for each few samples, thousands for each second of audio. Two kinds of recursion
need two ways: where each sample waits for the one before, the last samples are kept in registers, a lane each; where lags are
longer, as many samples as the shortest lag has are solved at once, and memory is read again.

Tested through Triton's interpreter on a CPU; not measured. This module imports Triton, which not every platform has: import it
where it is used.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def solve(signals: Tensor, weights: Tensor, lags: Tensor | None, apart: int, transposed: bool) -> None:
    """Solves `wavflow.flows.recursion.recursion`, or the transposed one, where the signals lie.

    Args:
        signals: (B, T) float64.
        weights: (B, N, J) float64.
        lags: (B, N), or None for 1.
        apart: Divides a block, and no lag is below it.
        transposed: Which.
    """
    (batch, samples), (blocks, taps) = signals.shape, weights.shape[1:]
    sizes = {"samples": samples, "length": samples // max(1, blocks), "blocks": blocks, "taps": taps, "TRANSPOSED": transposed}
    if lags is None:
        _next_to_each_other[(batch,)](signals, weights.contiguous(), **sizes, RING=triton.next_power_of_2(taps), num_warps=1)
        return
    shape = {"PIECE": triton.next_power_of_2(apart + (taps - 1) * transposed), "TAPS": triton.next_power_of_2(taps)}
    _apart[(batch,)](signals, weights.contiguous(), lags.to(torch.int32).contiguous(), **sizes, piece=apart, **shape)


@triton.jit
def _add(a, b):  # not tl.sum, which the interpreter does not take when Triton was imported without it
    return a + b


@triton.jit
def _next_to_each_other(signals, weights, samples, length, blocks, taps, TRANSPOSED: tl.constexpr, RING: tl.constexpr):
    item = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, RING)
    signals += item * samples
    weights += item * blocks * taps
    last = tl.full((RING,), 0.0, tl.float64)  # lane s % RING holds sample s
    i = 0
    while i < samples:  # the interpreter takes no tensor for a range
        if TRANSPOSED:
            t = samples - 1 - i
            tap = (lane - t - 1) & (RING - 1)
            from_block = (t + tap + 1) // length  # of the sample that is made of this one
            known = (tap < taps) & (t + tap + 1 < samples)
        else:
            t = i
            tap = (t - 1 - lane) & (RING - 1)
            from_block = t // length + 0 * lane
            known = (tap < taps) & (tap < t)
        weight = tl.load(weights + from_block * taps + tap, mask=known, other=0.0)
        value = tl.load(signals + t) + tl.reduce(weight * last, 0, _add)
        tl.store(signals + t, value)
        last = tl.where(lane == (t & (RING - 1)), value, last)
        i += 1


@triton.jit
def _apart(
    signals, weights, lags, samples, length, blocks, taps, piece,
    TRANSPOSED: tl.constexpr, PIECE: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, PIECE)
    j = tl.arange(0, TAPS)[None, :]
    signals += item * samples
    weights += item * blocks * taps
    lags += item * blocks
    pieces, i = samples // piece, 0
    while i < pieces:
        start = (pieces - 1 - i if TRANSPOSED else i) * piece
        block = start // length
        lag = tl.load(lags + block)
        weight = tl.load(weights + block * taps + j, mask=j < taps, other=0.0)
        if TRANSPOSED:  # to: all that a sample of this piece is made of
            to = start - lag - (taps - 1) + row
            other = to[:, None] + lag + j
            mask = (j < taps) & (other >= start) & (other < start + piece)
            written = (to >= 0) & (row < piece + taps - 1)
        else:
            to = start + row
            other = to[:, None] - lag - j
            mask = (j < taps) & (other >= 0) & (row < piece)[:, None]
            written = row < piece
        # Past the first cache: another thread of the program has written what is read.
        made_of = tl.load(signals + other, mask=mask, other=0.0, cache_modifier=".cg")
        added = tl.reduce(weight * made_of, 1, _add)
        value = tl.load(signals + to, mask=written, other=0.0, cache_modifier=".cg") + added
        tl.store(signals + to, value, mask=written)
        tl.debug_barrier()
        i += 1
