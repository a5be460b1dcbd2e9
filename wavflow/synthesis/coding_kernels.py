"""Machine code of lossless coding: the density of each next 16-bit level, given the levels before it.

The WaveNet's step is that of `kernels.run`, for samples that are given instead of drawn. Encoder and decoder call the same
function once a sample, with the same numbers, so that both get the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wavflow.synthesis.kernels import multiply, take_delayed
from wavflow.synthesis.packing import BLOCK, TILE, VECTOR, PackedWaveNet
from wavflow.synthesis.vectors import compiled, fill, gate, load, maximum, repeat, store

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
        mixture: (3, K), is written: weights, centres and scales, in levels.

    Returns:
        Whether all of them are numbers.
    """
    audio, residual, recent = memory.audio, memory.residual, memory.recent
    now = len(audio) - piece.length + t - piece.start
    audio[now - 1] = level / FULL_SCALE
    residual[now - 1] = (audio[now - 1] - recent[0]) / recent[2]
    params = predict(net, memory, piece, t, np.float32((audio[now - 1] - recent[1]) / recent[2]))
    block, linear, periodic = (t - piece.start) // piece.block_length, 0.0, 0.0
    for k in range(piece.coefficients.shape[1]):
        linear += piece.coefficients[block, k] * audio[now - 1 - k]
    for j in range(piece.lags.shape[1]):
        periodic += piece.weights[block, j] * residual[now - piece.lags[block, j]]
    gain = piece.gain[block]
    recent[0], recent[1], recent[2] = linear, linear + gain * periodic, gain
    describe(params, bijection[0], bijection[1], recent[1] * FULL_SCALE, gain * FULL_SCALE, mixture)
    return np.isfinite(mixture).all()


@compiled
def predict(net, memory, piece, t, x):
    """Returns the WaveNet's parameters for time t; x is the whitened sample before it."""
    dilations, kernel_size, channels, skip, matrices = net.dilations, net.kernel_size, net.channels, net.skip, net.gates
    sums, past, start = memory.sums, memory.past, piece.start
    layers, gates, hidden = len(dilations), 2 * channels, len(net.head_bias)
    width = net.outputs.shape[0] // layers * TILE
    last, gated, state = np.full(1, x, np.float32), np.empty(channels, np.float32), np.zeros(width, np.float32)
    half, zero = fill(np.float32(math.sqrt(0.5))), fill(np.float32(0.0))
    for j in range(0, skip, VECTOR):
        store(state, j, load(net.skip_bias, j))
    for j in range(0, channels, VECTOR):
        store(state, skip + j, repeat(last, 0) * load(net.input, j) + load(net.input, channels + j))
    for layer in range(layers):
        dilation, row, block = dilations[layer], memory.first_rows[layer], layer * BLOCK * gates
        if t == memory.ends[layer]:
            steps, features = min(dilation, BLOCK, start + piece.length - t), (piece.frames, piece.kernel, start)
            take_delayed(
                sums, block, gates, layer, t, steps, 1, past, row, dilation, kernel_size, matrices, net.gate_bias, features
            )
            memory.began[layer], memory.ends[layer] = t, t + steps
        y = block + (t - memory.began[layer]) * gates
        now = (layer * kernel_size + kernel_size - 1) * gates // TILE
        multiply(sums, y, gates, state, skip, width, 1, matrices, now, gates // TILE)
        row += (kernel_size - 1) * dilation + t - start
        for j in range(0, channels, VECTOR):
            store(gated, j, gate(load(sums, y + 2 * j), load(sums, y + 2 * j + VECTOR)))
            h = load(state, skip + j)
            store(past, row * channels + j, h)
            store(state, skip + j, half * h + load(net.residual_bias, layer * channels + j))
        multiply(state, 0, width, gated, 0, channels, 1, net.outputs, layer * width // TILE, width // TILE)
    for j in range(0, skip, VECTOR):
        store(state, j, maximum(load(state, j), zero))
    between, params = net.head_bias.copy(), net.last_bias.copy()
    multiply(between, 0, hidden, state, 0, width, 1, net.head, 0, hidden // TILE)
    for j in range(0, hidden, VECTOR):
        store(between, j, maximum(load(between, j), zero))
    multiply(params, 0, len(params), between, 0, hidden, 1, net.last, 0, len(params) // TILE)
    return params


@compiled
def describe(params, components, bound, centre, unit, mixture):
    """Brings parameters into weights, centres and scales (3, K), in levels: those of `Affine`, or of `MixtureCDF`."""
    if components == 0:
        mixture[0, 0] = 1.0
        mixture[1, 0] = centre + unit * params[0]
        mixture[2, 0] = unit * math.exp(bound * math.tanh(params[1] / bound))
        return
    most, total = -np.inf, 0.0
    for i in range(components):
        most = max(most, params[i])
    for i in range(components):
        mixture[0, i] = math.exp(params[i] - most)
        total += mixture[0, i]
        spread = -2.0 + 4.0 * i / (components - 1) if components > 1 else -2.0  # as torch.linspace
        mixture[1, i] = centre + unit * (params[components + i] + spread)
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
