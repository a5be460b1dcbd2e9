"""A student's flows, compiled: blocks of samples through all layers of a flow, see `wavflow.synthesis.parallel`.

Rows are time steps, and a sum takes its terms in the same order wherever its row lies: the same samples come out, to the last
bit, however they are cut into blocks. Arrays have room for the rows, up to a tile, that a block may be short of.
"""

from __future__ import annotations

import math

import numpy as np

from wavflow.kernels.compiling import compiled
from wavflow.kernels.products import BLOCK_ROWS, add_products, close_tiles, load_sums, open_tiles, store_sums
from wavflow.kernels.vectors import exp_twice, fill, gate, load, maximum, repeat, store
from wavflow.synthesis.packing import ROWS, TILE, VECTOR, PackedWaveNet


@compiled
def draw(
    net: PackedWaveNet,
    flow: int,
    flows: int,
    bound: float,
    past: np.ndarray,
    first_rows: np.ndarray,
    filled: np.ndarray,
    last: np.ndarray,
    features: tuple[np.ndarray, np.ndarray],
    z: np.ndarray,
    log_scale: np.ndarray,
) -> None:
    """Maps noise through a flow, `z <- L z + loc`, with loc and the triangular L of each group from the groups before it.

    Args:
        net: The packed WaveNets of all flows, one behind the other.
        flow: Which of them is applied.
        flows: How many there are.
        bound: Of the log-scales.
        past: Inputs of all layers, in words: of each layer as many rows as the taps look back, and room for `ROWS` more.
        first_rows: (flows * layers,) where each layer's rows start in `past`.
        filled: (flows,) how many of the `ROWS` are in use; is brought up to date, as `past` and `last` are.
        last: (flows, group) each flow's last input.
        features: Projected frames (F + 3, flows * layers, 2 C) from one before the first group's frame on, the last one
            a spare; and the weights (3, hop) of frames at the groups of a frame.
        z: (n, group) noise; then what the flow makes of it. Begins with a frame.
        log_scale: (n, group), is added to.
    """
    layers, steps, group = len(net.dilations) // flows, z.shape[0], z.shape[1]
    words = net.gates.shape[1] * net.gates.shape[2] // TILE  # of a row of C
    width = net.outputs.shape[0] // len(net.dilations) * TILE
    hidden, n_params = len(net.head_bias) // flows, len(net.last_bias) // flows
    state, sums = np.zeros((ROWS, width), np.float32), np.zeros((ROWS, TILE), np.float32)
    gated = np.zeros(ROWS * words, past.dtype)
    between, params = np.zeros((ROWS, hidden), np.float32), np.zeros((ROWS, n_params), np.float32)
    places = np.zeros(ROWS, np.intp), np.zeros((ROWS, 3), np.float32)
    open_tiles(past)
    raw, scale = np.zeros(ROWS * group + VECTOR, np.float32), np.zeros(ROWS * group + VECTOR, np.float32)
    for start in range(0, steps, ROWS):
        rows = min(ROWS, steps - start)
        if filled[flow] + rows > ROWS:
            forget(net, flow * layers, layers, words, past, first_rows, filled[flow])
            filled[flow] = 0
        place(places, features, start, rows)
        enter(net, flow, state, z, start, rows, last)
        for layer in range(flow * layers, (flow + 1) * layers):
            span = (net.kernel_size - 1) * net.dilations[layer]
            row = (first_rows[layer] + span + filled[flow]) * words
            take_layer(net, layer, layer % layers == layers - 1, rows, state, sums, gated, past, row, features[0], places)
        leave(net, flow, rows, state, between, params)
        filled[flow] += rows
        transform(params, bound, raw, scale, z, log_scale, start, rows)
    close_tiles(past)


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
    for r in range(rows):
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
def take_layer(net, layer, is_last, rows, state, sums, gated, past, row, frames, places):
    """A gated layer: keeps its inputs from word `row` of the past on, adds to the skips and replaces the inputs in `state`."""
    channels, skip, width, gates = net.channels, net.skip, state.shape[1], net.gates
    gate_bias, residual_bias = net.gate_bias, net.residual_bias  # read once: each reading counts a reference
    words = gates.shape[1] * gates.shape[2] // TILE
    step = VECTOR * gates.shape[2] // (2 * TILE)  # words of a vector
    half = fill(np.float32(math.sqrt(0.5)))
    for r in range(rows):
        for j in range(0, channels, VECTOR):
            h = load(state, r * width + skip + j)
            store(past, row + r * words + j // VECTOR * step, h)
            # h' = (h + W gated + bias) * sqrt(1/2)
            store(state, r * width + skip + j, half * h + load(residual_bias, layer * channels + j))
    tiles = channels // VECTOR
    taps = net.kernel_size, net.dilations[layer] * words, tiles
    for tile in range(tiles):
        column, first = layer * 2 * channels + tile * TILE, layer * net.kernel_size * tiles + tile
        for r in range(rows):
            for j in range(0, TILE, VECTOR):
                store(sums, r * TILE + j, at_sample(frames, places, r, column + j, gate_bias))
        multiply_tile(sums, 0, TILE, past, row, words, rows, gates, first, taps)
        for r in range(rows):
            store(gated, r * words + tile * step, gate(load(sums, r * TILE), load(sums, r * TILE + VECTOR)))
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
    for tile in range(tiles):
        multiply_tile(y, tile * TILE, y_step, x, 0, x_step, rows, weights, first + tile, (1, 0, 0))


@compiled
def multiply_tile(y, y0, y_step, x, x0, x_step, rows, weights, first, taps):
    """Adds to the 32 numbers of each row of y, from flat index y0 on, the products of what taps see in x and their tiles.

    Args:
        y: Whole blocks of rows, `y_step` apart.
        x: In words; the last tap sees rows from flat index x0 on, `x_step` apart.
        weights: The first tap's tile is the one at `first`.
        taps: How many, and how far the next one's rows and tile are.
    """
    words = weights.shape[1] * weights.shape[2] // TILE
    together, inputs = (TILE, TILE) if weights.itemsize == 2 else (BLOCK_ROWS, 1)
    for row in range(0, rows, together):
        sums = load_sums(y, y0 + row * y_step, y_step, weights)
        for tap in range(taps[0]):
            i, w = x0 + row * x_step - (taps[0] - 1 - tap) * taps[1], (first + tap * taps[2]) * words * TILE
            for word in range(0, words, inputs):
                sums = add_products(sums, x, i + word, x_step, weights, w + word * TILE)
        store_sums(y, y0 + row * y_step, y_step, sums)


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
