"""Machine code of lossless coding in its first version: the density of each next 16-bit level, given the levels before it.

The WaveNet's step is that of drawing, `kernels.predict`, for samples that are given. Encoder and decoder call the same function
once a sample, with the same numbers, so that both get the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wavflow.kernels.vectors import compiled
from wavflow.synthesis.kernels import predict, scratch_for
from wavflow.synthesis.packing import PackedWaveNet

LOWEST, HIGHEST, FULL_SCALE = -32768, 32767, 32768.0


class Memory(NamedTuple):
    """What a step leaves to the next ones. Histories hold H samples before those of a piece."""

    sums: np.ndarray  # (layers, BLOCK, 2 C) float32: gates that wait for their current tap, see `take_delayed`
    began: np.ndarray  # (layers,) time of the first of them
    ends: np.ndarray  # (layers,) first time after them
    past: np.ndarray  # rows of C float32: inputs of all layers
    first_rows: np.ndarray  # (layers,) where each layer's rows start
    audio: np.ndarray  # (H + piece,) float64
    residual: np.ndarray  # (H + piece,) float64: audio less its linear prediction, over the gain
    recent: np.ndarray  # (3,) of the sample before: its linear prediction, all that was predicted, the gain


class Piece(NamedTuple):
    """What the mel tells of some frames from the time `start` on; the whitening's part in N blocks."""

    start: int
    length: int
    frames: np.ndarray  # as `features` of `kernels.run`
    kernel: np.ndarray
    block_length: int
    coefficients: np.ndarray  # (N, p) float64, of the sample before first
    gain: np.ndarray  # (N,) float64
    lags: np.ndarray  # (N, J) int64; J = 0 without pitch
    weights: np.ndarray  # (N, J) float64


@compiled
def step(net: PackedWaveNet, bijection: tuple, memory: Memory, piece: Piece, t: int, level: int, mixture: np.ndarray) -> bool:
    """Takes in the level at t - 1 and writes the density of the one at t.

    Args:
        net: A `PackedWaveNet`.
        bijection: Components (0: affine), and the bound of the log-scales.
        memory: Is brought forward.
        piece: Holds t.
        t: Steps come in order.
        level: At t - 1; 0 before the first one.
        mixture: (3, K), is written: weights, centers and scales, in levels.

    Returns:
        Whether all of them are numbers.
    """
    audio, residual, recent = memory.audio, memory.residual, memory.recent
    now = len(audio) - piece.length + t - piece.start
    audio[now - 1] = level / FULL_SCALE
    residual[now - 1] = (audio[now - 1] - recent[0]) / recent[2]
    before, scratch = np.full(1, (audio[now - 1] - recent[1]) / recent[2], np.float32), scratch_for(net, 1)
    features, end = (piece.frames, piece.kernel, piece.start), piece.start + piece.length
    predict(net, memory.sums, memory.began, memory.ends, memory.past, memory.first_rows, features, t, end, before, scratch)
    block, linear, periodic = (t - piece.start) // piece.block_length, 0.0, 0.0
    for k in range(piece.coefficients.shape[1]):
        linear += piece.coefficients[block, k] * audio[now - 1 - k]
    for j in range(piece.lags.shape[1]):
        periodic += piece.weights[block, j] * residual[now - piece.lags[block, j]]
    gain = piece.gain[block]
    recent[0], recent[1], recent[2] = linear, linear + gain * periodic, gain
    describe(scratch[3][0], bijection[0], bijection[1], recent[1] * FULL_SCALE, gain * FULL_SCALE, mixture)
    return np.isfinite(mixture).all()


@compiled
def describe(params, components, bound, center, unit, mixture):
    """Brings parameters into weights, centers and scales (3, K), in levels: those of `Affine`, or of `MixtureCDF`."""
    if components == 0:
        mixture[0, 0] = 1.0
        mixture[1, 0] = center + unit * params[0]
        mixture[2, 0] = unit * math.exp(bound * math.tanh(params[1] / bound))
        return
    most, total = -np.inf, 0.0
    for i in range(components):
        most = max(most, params[i])
    for i in range(components):
        mixture[0, i] = math.exp(params[i] - most)
        total += mixture[0, i]
        spread = -2.0 + 4.0 * i / (components - 1) if components > 1 else -2.0  # as torch.linspace
        mixture[1, i] = center + unit * (params[components + i] + spread)
        mixture[2, i] = unit * math.exp(bound * math.tanh(params[2 * components + i] / bound))
    for i in range(components):
        mixture[0, i] /= total


@compiled
def cdf(level, mixture, gaussian):
    """Returns the probability of all that is below a level; a whole level and a half is the edge between two."""
    below = 0.0
    for i in range(mixture.shape[1]):
        z = (level - mixture[1, i]) / mixture[2, i]
        below += mixture[0, i] * (0.5 * math.erfc(-z * math.sqrt(0.5)) if gaussian else 1.0 / (1.0 + math.exp(-z)))
    return min(below, 1.0)


@compiled
def quantile(probability, mixture, gaussian):
    """Returns the lowest level up to whose upper edge there is that much probability."""
    low, high = LOWEST, HIGHEST
    while low < high:
        middle = (low + high) // 2
        if cdf(middle + 0.5, mixture, gaussian) >= probability:
            high = middle
        else:
            low = middle + 1
    return float(low)
