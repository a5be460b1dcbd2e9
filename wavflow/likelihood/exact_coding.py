"""The coder's compiled steps: the density of each sample, then the sample, in arithmetic that is the same on every machine."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wavflow.kernels.compiling import compiled
from wavflow.likelihood.arithmetic import add_product, copy, exp, gate, tanh
from wavflow.likelihood.range_coding import Coder, code, start_of

LOWEST, HIGHEST, FULL_SCALE = -32768, 32767, 32768.0
_HALF, _ZERO = np.float32(math.sqrt(0.5)), np.float32(0.0)


class Net(NamedTuple):
    """A WaveNet's weights, float32; matrices are (inputs, outputs). L layers of K taps, C and S channels, P parameters."""

    dilations: np.ndarray  # (L,)
    input: np.ndarray  # (C,)
    input_bias: np.ndarray
    gates: np.ndarray  # (L, K, C, 2C), the oldest tap first
    gate_bias: np.ndarray  # (L, 2C)
    outputs: np.ndarray  # (L, C, S + C); the last layer's residual is zero
    output_bias: np.ndarray  # (L, S + C)
    skip_scale: np.float32  # of the sum of the skips
    head: np.ndarray  # (S, S)
    head_bias: np.ndarray
    last: np.ndarray  # (S, P)
    last_bias: np.ndarray


class Memory(NamedTuple):
    """What later samples depend on. Histories hold what lies before a chunk, and then the chunk."""

    inputs: np.ndarray  # rows of C float32: those of all layers
    rows: np.ndarray  # (L,) that of each layer for a chunk's first sample
    audio: np.ndarray  # (H + chunk,) float64
    residual: np.ndarray  # (H + chunk,) float64: audio less its linear prediction, over the gain
    recent: np.ndarray  # (3,) of the sample before: its linear prediction, all that was predicted, the gain


class Chunk(NamedTuple):
    """What the mel tells of a chunk; the whitening's part is in N blocks, see `Filters`."""

    frames: np.ndarray  # (F + 2, L, 2C) float32
    kernel: np.ndarray  # (3, hop_length) float32
    block_length: int
    coefficients: np.ndarray
    gain: np.ndarray
    lags: np.ndarray
    weights: np.ndarray


@compiled
def follow(
    net: Net,
    bijection: tuple[int, float, int],
    memory: Memory,
    chunk: Chunk,
    values: np.ndarray,
    intervals: np.ndarray,
    coder: Coder,
) -> bool:
    """Goes through a chunk sample by sample: each one's density, then the sample itself.

    Args:
        net: The WaveNet.
        bijection: Components (0: affine), the bound of the log-scales, the kind of the density.
        memory: Is updated.
        chunk: What the mel tells of the chunk.
        values: int16 (n,): given, or read where the coder is a reader.
        intervals: int64 (n, 2): is written, for values that are given.
        coder: Values that are given are not written to it.

    Returns:
        Whether all parameters are finite.
    """
    audio, residual, recent, hop = memory.audio, memory.residual, memory.recent, chunk.kernel.shape[1]
    history = len(audio) - (len(chunk.frames) - 2) * hop
    channels, skip = len(net.input), len(net.head_bias)
    y, room = np.empty(2 * channels, np.float32), np.empty(2 * channels, np.float32)
    scratch = y, room, np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(skip + channels, np.float32)
    sums, between, params = np.empty(skip, np.float32), np.empty(skip, np.float32), np.empty(len(net.last_bias), np.float32)
    mixture = np.empty((3, max(1, bijection[0])))
    for i in range(len(values)):
        now, block = history + i, i // chunk.block_length
        residual[now - 1] = (audio[now - 1] - recent[0]) / recent[2]
        x = np.float32((audio[now - 1] - recent[1]) / recent[2])
        predict(net, memory, chunk, i, x, scratch, sums)
        for c in range(skip):
            sums[c] = max(sums[c] * net.skip_scale, _ZERO)
        copy(between, net.head_bias)
        add_product(between, sums, net.head)
        for c in range(skip):
            between[c] = max(between[c], _ZERO)
        copy(params, net.last_bias)
        add_product(params, between, net.last)
        linear, periodic, gain = 0.0, 0.0, chunk.gain[block]
        for k in range(chunk.coefficients.shape[1]):
            linear += chunk.coefficients[block, k] * audio[now - 1 - k]
        for j in range(chunk.lags.shape[1]):
            periodic += chunk.weights[block, j] * residual[now - chunk.lags[block, j]]
        recent[0], recent[1], recent[2] = linear, linear + gain * periodic, gain
        if not describe(params, bijection, recent[1] * FULL_SCALE, gain * FULL_SCALE, mixture):
            return False
        if coder.reads:
            values[i] = code(coder, 0, LOWEST, HIGHEST, mixture, bijection[2])
        else:
            value = int(values[i])
            start = start_of(value, LOWEST, HIGHEST, mixture, bijection[2])
            intervals[i, 0] = start
            intervals[i, 1] = start_of(value + 1, LOWEST, HIGHEST, mixture, bijection[2]) - start
        audio[now] = values[i] / FULL_SCALE
    return True


@compiled
def predict(net, memory, chunk, i, x, scratch, sums):
    """Runs the WaveNet's layers for sample i of a chunk, given the whitened x before it; writes the sums of the skips (S,)."""
    y, room, h, gated, out = scratch
    frames, kernel, inputs = chunk.frames, chunk.kernel, memory.inputs
    dilations, gates, outputs = net.dilations, net.gates, net.outputs
    channels, skip, taps, hop = len(h), len(sums), gates.shape[1], kernel.shape[1]
    frame, j = i // hop + 1, i % hop
    before, here, after = kernel[0, j], kernel[1, j], kernel[2, j]
    for c in range(skip):
        sums[c] = _ZERO
    for c in range(channels):
        h[c] = net.input_bias[c] + x * net.input[c]
    for layer in range(len(dilations)):
        row, bias = memory.rows[layer] + i, net.gate_bias[layer]
        past, now, following = frames[frame - 1, layer], frames[frame, layer], frames[frame + 1, layer]
        copy(inputs[row], h)
        for c in range(2 * channels):
            y[c] = bias[c] + before * past[c] + here * now[c] + after * following[c]
        for tap in range(taps):
            add_product(y, inputs[row - (taps - 1 - tap) * dilations[layer]], gates[layer, tap])
        gate(gated, y, room)
        copy(out, net.output_bias[layer])
        add_product(out, gated, outputs[layer])
        for c in range(skip):
            sums[c] += out[c]
        for c in range(channels):
            h[c] = (h[c] + out[skip + c]) * _HALF


@compiled
def describe(params, bijection, center, unit, mixture):
    """Writes the mixture's weights, centers and scales (3, K), in 16-bit values; returns whether all are finite."""
    components, bound, _ = bijection
    most, total, finite = -np.inf, 0.0, True
    for i in range(components):
        most = max(most, np.float64(params[i]))
    for i in range(max(1, components)):
        loc, raw = np.float64(params[components + i]), np.float64(params[max(1, 2 * components) + i])
        if components > 1:
            loc += -2.0 + 4.0 * i / (components - 1)
        elif components:
            loc += -2.0
        mixture[0, i] = exp(np.float64(params[i]) - most) if components else 1.0
        mixture[1, i] = center + unit * loc
        mixture[2, i] = unit * exp(bound * tanh(raw / bound))
        total += mixture[0, i]
        # `exp` clips its argument, so infinity has to be found before it.
        finite = finite and math.isfinite(raw) and math.isfinite(mixture[1, i]) and math.isfinite(mixture[2, i])
    for i in range(components):
        mixture[0, i] /= total
        finite = finite and math.isfinite(params[i])
    return finite
