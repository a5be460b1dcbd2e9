"""A student's flows, compiled: blocks of samples through all layers of a flow, see `wavflow.synthesis.parallel`.

Rows are time steps, four at a time, and a sum takes its terms in the same order wherever its row lies: the same samples come
out, to the last bit, however they are cut into blocks. Arrays have room for the three rows that a block may be short of.
"""

from __future__ import annotations

import math

import numpy as np

from wavflow.kernels.compiling import compiled
from wavflow.kernels.vectors import (
    add_product,
    exp_twice,
    fill,
    gate,
    load,
    maximum,
    repeat,
    store,
)
from wavflow.synthesis.packing import ROWS, TILE, VECTOR, PackedWaveNet


@compiled
def draw(
    net: PackedWaveNet,
    flows: tuple[int, int, int],
    bound: float,
    past: np.ndarray,
    first_rows: np.ndarray,
    room: int,
    filled: np.ndarray,
    last: np.ndarray,
    features: tuple[np.ndarray, np.ndarray],
    z: np.ndarray,
    log_scale: np.ndarray,
) -> None:
    """Maps noise through some flows, `z <- L z + loc`, with loc and the triangular L of each group from the groups before it.

    Args:
        net: The packed WaveNets of all flows, one behind the other.
        flows: The first and the last, exclusive, of those to apply, and how many there are in all.
        bound: Of the log-scales.
        past: Inputs of all layers, in words; so much of them as the taps look back, and `room` for more.
        first_rows: (flows * layers,) where each layer's rows start in `past`.
        room: Rows of each layer beyond its past.
        filled: (flows,) how many of those are in use; is brought up to date, as `past` and `last` are.
        last: (flows, group) each flow's last input.
        features: Projected frames (F + 3, flows * layers, 2 C) from one before the first group's frame on, the last one
            a spare; and the weights (3, hop) of frames at the groups of a frame.
        z: (n, group) noise; then what the flows make of it. Begins with a frame.
        log_scale: (n, group), is added to.
    """
    layers, steps, group = len(net.dilations) // flows[2], z.shape[0], z.shape[1]
    words = net.gates.shape[1] * net.gates.shape[2] // TILE  # of a row of C
    width = net.outputs.shape[0] // len(net.dilations) * TILE
    hidden, n_params = len(net.head_bias) // flows[2], len(net.last_bias) // flows[2]
    state, gated = np.empty((ROWS + 3, width), np.float32), np.empty((ROWS + 3) * words, past.dtype)
    between, params = np.empty((ROWS + 3, hidden), np.float32), np.empty((ROWS + 3, n_params), np.float32)
    state[:], gated[:], between[:], params[:] = 0, 0, 0, 0
    places = np.zeros(ROWS + 3, np.intp), np.zeros((ROWS + 3, 3), np.float32)
    raw, scale = np.zeros(ROWS * group + VECTOR, np.float32), np.zeros(ROWS * group + VECTOR, np.float32)
    for flow in range(flows[0], flows[1]):
        for start in range(0, steps, ROWS):
            rows = min(ROWS, steps - start)
            if filled[flow] + rows > room:
                forget(net, flow * layers, layers, words, past, first_rows, filled[flow])
                filled[flow] = 0
            place(places, features, start, rows)
            enter(net, flow, state, z, start, rows, last)
            for layer in range(flow * layers, (flow + 1) * layers):
                span = (net.kernel_size - 1) * net.dilations[layer]
                row = (first_rows[layer] + span + filled[flow]) * words
                take_layer(net, layer, layer % layers == layers - 1, rows, state, gated, past, row, features[0], places)
            leave(net, flow, rows, state, between, params)
            filled[flow] += rows
            transform(params, bound, raw, scale, z, log_scale, start, rows)


@compiled
def forget(net, first, layers, words, past, first_rows, filled):
    """Moves what the taps of a flow's layers look back at to the front."""
    for layer in range(first, first + layers):
        start, span = first_rows[layer] * words, (net.kernel_size - 1) * net.dilations[layer] * words
        for i in range(start, start + span):
            past[i] = past[i + filled * words]


@compiled
def place(places, features, start, rows):
    """Finds where the features of a block's time steps begin, and how the frames before, here and after weigh there."""
    frames, kernel = features
    hop = kernel.shape[1]
    for r in range(rows + 3):
        places[0][r] = ((start + r) // hop + 1) * frames.shape[1] * frames.shape[2]
        for k in range(3):
            places[1][r, k] = kernel[k, (start + r) % hop]


@compiled
def enter(net, flow, state, z, start, rows, last):
    """The input layer, from the group before each; keeps the last group. The sums of the skips start at their biases."""
    channels, skip, group, width = net.channels, net.skip, z.shape[1], state.shape[1]
    weights, bias = flow * (group + 1) * channels, (flow * (group + 1) + group) * channels
    for row in range(rows):
        for j in range(0, skip, VECTOR):
            store(state, row * width + j, load(net.skip_bias, flow * skip + j))
        for j in range(0, channels, VECTOR):
            h = load(net.input, bias + j)
            for c in range(group):
                x = repeat(z, (start + row - 1) * group + c) if row else repeat(last, flow * group + c)
                h = h + x * load(net.input, weights + c * channels + j)
            store(state, row * width + skip + j, h)
    for c in range(group):
        last[flow, c] = z[start + rows - 1, c]


@compiled
def take_layer(net, layer, is_last, rows, state, gated, past, row, frames, places):
    """A gated layer: keeps its inputs from word `row` of the past on, adds to the skips and replaces the inputs in `state`."""
    channels, skip, width = net.channels, net.skip, state.shape[1]
    words = net.gates.shape[1] * net.gates.shape[2] // TILE
    step = words * VECTOR // channels  # words of a vector
    half = fill(np.float32(math.sqrt(0.5)))
    for r in range(rows):
        for j in range(0, channels, VECTOR):
            h = load(state, r * width + skip + j)
            store(past, row + r * words + j // VECTOR * step, h)
            # h' = (h + W gated + bias) * sqrt(1/2)
            store(state, r * width + skip + j, half * h + load(net.residual_bias, layer * channels + j))
    tiles, taps = channels // VECTOR, net.kernel_size
    for tile in range(tiles):
        column = layer * 2 * channels + tile * TILE
        matrix = (layer * taps * tiles + tile) * words * TILE
        for r in range(0, rows, 4):
            a0 = at_sample(frames, places, r, column, net.gate_bias)
            a1 = at_sample(frames, places, r, column + VECTOR, net.gate_bias)
            b0 = at_sample(frames, places, r + 1, column, net.gate_bias)
            b1 = at_sample(frames, places, r + 1, column + VECTOR, net.gate_bias)
            c0 = at_sample(frames, places, r + 2, column, net.gate_bias)
            c1 = at_sample(frames, places, r + 2, column + VECTOR, net.gate_bias)
            d0 = at_sample(frames, places, r + 3, column, net.gate_bias)
            d1 = at_sample(frames, places, r + 3, column + VECTOR, net.gate_bias)
            for tap in range(taps):
                xa = row + (r - (taps - 1 - tap) * net.dilations[layer]) * words
                xb, xc, xd = xa + words, xa + 2 * words, xa + 3 * words
                first = matrix + tap * tiles * words * TILE
                for i in range(words):
                    v, w = first + i * TILE, first + i * TILE + VECTOR
                    a0, a1 = add_product(a0, past, xa + i, net.gates, v), add_product(a1, past, xa + i, net.gates, w)
                    b0, b1 = add_product(b0, past, xb + i, net.gates, v), add_product(b1, past, xb + i, net.gates, w)
                    c0, c1 = add_product(c0, past, xc + i, net.gates, v), add_product(c1, past, xc + i, net.gates, w)
                    d0, d1 = add_product(d0, past, xd + i, net.gates, v), add_product(d1, past, xd + i, net.gates, w)
            to = r * words + tile * step
            store(gated, to, gate(a0, a1)), store(gated, to + words, gate(b0, b1))
            store(gated, to + 2 * words, gate(c0, c1)), store(gated, to + 3 * words, gate(d0, d1))
    tiles = width // TILE
    used = (skip + TILE - 1) // TILE if is_last else tiles  # the last layer's residual would go nowhere
    multiply(state, width, gated, words, rows, net.outputs, layer * tiles, used)


@compiled
def at_sample(frames, places, r, column, bias):
    """Returns a vector of bias and features at the block's time step r."""
    at, one_frame = places[0][r] + column, frames.shape[1] * frames.shape[2]
    total = load(bias, column) + repeat(places[1], 3 * r) * load(frames, at - one_frame)
    total = total + repeat(places[1], 3 * r + 1) * load(frames, at)
    return total + repeat(places[1], 3 * r + 2) * load(frames, at + one_frame)


@compiled
def multiply(y, y_step, x, x_step, rows, weights, first, tiles):
    """`y[row] += x[row] @ W`, with W the tiles from `first` on; x is in words."""
    words = weights.shape[1] * weights.shape[2] // TILE
    for tile in range(tiles):
        start = (first + tile) * words * TILE
        for row in range(0, rows, 4):
            ya, xa = row * y_step + tile * TILE, row * x_step
            yb, yc, yd = ya + y_step, ya + 2 * y_step, ya + 3 * y_step
            xb, xc, xd = xa + x_step, xa + 2 * x_step, xa + 3 * x_step
            a0, b0, c0, d0 = load(y, ya), load(y, yb), load(y, yc), load(y, yd)
            a1, b1, c1, d1 = load(y, ya + VECTOR), load(y, yb + VECTOR), load(y, yc + VECTOR), load(y, yd + VECTOR)
            for i in range(words):
                v, w = start + i * TILE, start + i * TILE + VECTOR
                a0, a1 = add_product(a0, x, xa + i, weights, v), add_product(a1, x, xa + i, weights, w)
                b0, b1 = add_product(b0, x, xb + i, weights, v), add_product(b1, x, xb + i, weights, w)
                c0, c1 = add_product(c0, x, xc + i, weights, v), add_product(c1, x, xc + i, weights, w)
                d0, d1 = add_product(d0, x, xd + i, weights, v), add_product(d1, x, xd + i, weights, w)
            store(y, ya, a0), store(y, yb, b0), store(y, yc, c0), store(y, yd, d0)
            store(y, ya + VECTOR, a1), store(y, yb + VECTOR, b1), store(y, yc + VECTOR, c1), store(y, yd + VECTOR, d1)


@compiled
def leave(net, flow, rows, state, between, params):
    """The head, in float32: from the summed skips to parameters."""
    skip, hidden, n_params, zero = net.skip, between.shape[1], params.shape[1], fill(np.float32(0.0))
    for row in range(rows):
        for j in range(0, skip, VECTOR):
            at = row * state.shape[1] + j
            store(state, at, maximum(load(state, at), zero))
        for j in range(0, hidden, VECTOR):
            store(between, row * hidden + j, load(net.head_bias, flow * hidden + j))
        for j in range(0, n_params, VECTOR):
            store(params, row * n_params + j, load(net.last_bias, flow * n_params + j))
    multiply(between, hidden, state, state.shape[1], rows, net.head, flow * hidden // TILE, hidden // TILE)
    for i in range(0, rows * hidden, VECTOR):
        store(between, i, maximum(load(between, i), zero))
    multiply(params, n_params, between, hidden, rows, net.last, flow * n_params // TILE, n_params // TILE)


@compiled
def transform(params, bound, raw, scale, z, log_scale, start, rows):
    """Applies `TriangularAffine` to each group: z[i] <- scale[i] z[i] + loc[i] + sum_{j < i} L[i, j] z[j]."""
    group, one = z.shape[1], fill(np.float32(1.0))
    for row in range(rows):
        for i in range(group):
            raw[row * group + i] = params[row, group + i]
    for i in range(0, rows * group, VECTOR):
        e = exp_twice(load(raw, i) * fill(np.float32(1.0 / bound)))
        x = fill(np.float32(bound)) * ((e - one) / (e + one))  # bound * tanh(raw / bound)
        store(raw, i, x)
        store(scale, i, exp_twice(fill(np.float32(0.5)) * x))
    for row in range(rows):
        for i in range(group - 1, -1, -1):
            total = scale[row * group + i] * z[start + row, i] + params[row, i]
            for j in range(i):
                total += params[row, 2 * group + i * (i - 1) // 2 + j] * z[start + row, j]
            z[start + row, i] = total
            log_scale[start + row, i] += raw[row * group + i]
