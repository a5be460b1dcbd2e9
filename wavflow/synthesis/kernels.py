"""The teacher's steps, compiled: a sample at a time, see `wavflow.synthesis.steps`."""

from __future__ import annotations

import math

import numpy as np

from wavflow.kernels.compiling import compiled
from wavflow.kernels.vectors import fill, gate, load, load_odd, maximum, repeat, store
from wavflow.synthesis.packing import BLOCK, TILE, VECTOR, PackedWaveNet


@compiled
def multiply(y, y0, y_step, x, x0, x_step, rows, weights, first, tiles):
    """`y[row] += x[row] @ W` for rows of x and y that start at flat indices; W is the tiles from `first` on.

    Tile by tile, so that however many rows there are, the weights come from far memory once.
    """
    # Not `blocks.multiply`, eight rows at least: a lone row through 16 layers of 48 channels takes it 11.6 us, not 2.7.
    pairs, words = weights.shape[1], weights.shape[2]
    for tile in range(tiles):
        start, column, row = (first + tile) * pairs * words, y0 + tile * TILE, 0
        while row + 4 <= rows:  # four rows share each load of weights
            ya, xa = column + row * y_step, x0 + row * x_step
            yb, yc, yd = ya + y_step, ya + 2 * y_step, ya + 3 * y_step
            xb, xc, xd = xa + x_step, xa + 2 * x_step, xa + 3 * x_step
            a0, b0, c0, d0 = load(y, ya), load(y, yb), load(y, yc), load(y, yd)
            a1, b1, c1, d1 = load(y, ya + VECTOR), load(y, yb + VECTOR), load(y, yc + VECTOR), load(y, yd + VECTOR)
            for pair in range(pairs):
                at, i = start + pair * words, 2 * pair
                w0, w1 = load(weights, at), load(weights, at + VECTOR)
                a, b, c, d = repeat(x, xa + i), repeat(x, xb + i), repeat(x, xc + i), repeat(x, xd + i)
                a0, b0, c0, d0 = a0 + a * w0, b0 + b * w0, c0 + c * w0, d0 + d * w0
                a1, b1, c1, d1 = a1 + a * w1, b1 + b * w1, c1 + c * w1, d1 + d * w1
                w0, w1 = load_odd(weights, at), load_odd(weights, at + VECTOR)
                a, b, c, d = repeat(x, xa + i + 1), repeat(x, xb + i + 1), repeat(x, xc + i + 1), repeat(x, xd + i + 1)
                a0, b0, c0, d0 = a0 + a * w0, b0 + b * w0, c0 + c * w0, d0 + d * w0
                a1, b1, c1, d1 = a1 + a * w1, b1 + b * w1, c1 + c * w1, d1 + d * w1
            store(y, ya, a0), store(y, yb, b0), store(y, yc, c0), store(y, yd, d0)
            store(y, ya + VECTOR, a1), store(y, yb + VECTOR, b1), store(y, yc + VECTOR, c1), store(y, yd + VECTOR, d1)
            row += 4
        while row < rows:  # one row alone: four sums for each half, so that no addition waits for the one before
            ya, xa = column + row * y_step, x0 + row * x_step
            a0, a1 = load(y, ya), load(y, ya + VECTOR)
            b0 = b1 = c0 = c1 = d0 = d1 = fill(np.float32(0.0))
            for pair in range(0, pairs, 2):
                at, i = start + pair * words, xa + 2 * pair
                a, b, c, d = repeat(x, i), repeat(x, i + 1), repeat(x, i + 2), repeat(x, i + 3)
                a0, a1 = a0 + a * load(weights, at), a1 + a * load(weights, at + VECTOR)
                b0, b1 = b0 + b * load_odd(weights, at), b1 + b * load_odd(weights, at + VECTOR)
                at += words
                c0, c1 = c0 + c * load(weights, at), c1 + c * load(weights, at + VECTOR)
                d0, d1 = d0 + d * load_odd(weights, at), d1 + d * load_odd(weights, at + VECTOR)
            store(y, ya, (a0 + b0) + (c0 + d0)), store(y, ya + VECTOR, (a1 + b1) + (c1 + d1))
            row += 1


@compiled
def quantile(params: np.ndarray, k: int, bound: float, gaussian: bool, noise: np.ndarray) -> float:
    """Solves `F(x) = p` for the mixture F of k components: as `Mixture.quantile`, of one number and in float64.

    `noise` is what `wavflow.synthesis.steps` makes of it: the quantile of a standard component, the log of the smaller tail,
    and 1 where that is the lower one, else -1: then all is mirrored, so that no tail is ever a difference from 1.
    """
    standard, log_tail, side = noise
    weight, loc, scale = np.empty(k), np.empty(k), np.empty(k)
    low, high, most, total = np.inf, -np.inf, -np.inf, 0.0
    for i in range(k):
        most = max(most, params[i])
    for i in range(k):
        weight[i] = math.exp(params[i] - most)
        total += weight[i]
        spread = -2.0 + 4.0 * i / (k - 1) if k > 1 else -2.0  # as torch.linspace
        loc[i] = side * (params[k + i] + spread)
        scale[i] = math.exp(bound * math.tanh(params[2 * k + i] / bound))
        low, high = min(low, loc[i] + scale[i] * side * standard), max(high, loc[i] + scale[i] * side * standard)
    x, last = 0.5 * (low + high), high - low
    for _ in range(200):  # bisections alone would need some 60
        tail, slope = 0.0, 0.0
        for i in range(k):
            distance = (x - loc[i]) / scale[i]
            if gaussian:
                below = 0.5 * math.erfc(-distance * math.sqrt(0.5))
                density = math.exp(-0.5 * distance * distance) / math.sqrt(2.0 * math.pi)
            else:
                below = 1.0 / (1.0 + math.exp(-distance))
                density = below * (1.0 / (1.0 + math.exp(distance)))
            tail += weight[i] / total * below
            slope += weight[i] / total * density / scale[i]
        gap = math.log(tail) - log_tail  # -inf where it underflows, and then the step is no number
        low, high = (x, high) if gap < 0 else (low, x)
        newton = x - gap * tail / slope
        # A Newton step that leaves the bracket, or does not halve the step before, is a bisection.
        new = newton if low <= newton <= high and abs(newton - x) <= 0.5 * last else 0.5 * (low + high)
        last, x = abs(new - x), new
        if last <= 1e-12 * (1.0 + abs(x)):
            break
    return side * x


@compiled
def take_delayed(y, y0, layer, t, steps, batch, past, row, dilation, kernel_size, gates, gate_bias, features):
    """Starts the sums y of a layer's next steps: bias, features, and the taps before the current one, which are all known.

    d = 4:   inputs    . . . a b c d | e         taps t - 4 of four steps are a b c d: one product of matrices,
             steps                   | 1 2 3 4   and the weights are read once for all
    """
    frames, kernel, start = features
    hop, width = kernel.shape[1], gate_bias.shape[1]
    channels, tiles, one_frame = width // 2, width // TILE, frames.shape[2] * width
    for step in range(steps):
        frame, j = (t + step) // hop - start // hop + 1, (t + step) % hop
        before, here, after = fill(kernel[0, j]), fill(kernel[1, j]), fill(kernel[2, j])
        for b in range(batch):
            at = ((b * frames.shape[1] + frame) * frames.shape[2] + layer) * width
            to = y0 + (step * batch + b) * width
            for j in range(0, width, VECTOR):
                bias = load(gate_bias, layer * width + j) + before * load(frames, at - one_frame + j)
                store(y, to + j, bias + here * load(frames, at + j) + after * load(frames, at + one_frame + j))
    for tap in range(kernel_size - 1):
        x0 = (row + (t - start + tap * dilation) * batch) * channels
        multiply(y, y0, width, past, x0, channels, steps * batch, gates, (layer * kernel_size + tap) * tiles, tiles)


@compiled
def predict(net, sums, past, first_rows, features, t, end, x, scratch):
    """Takes one step of the WaveNet, from the samples x (B,) before time t: the parameters for t are scratch[3] then.

    Steps come in order; `sums` hold what `take_delayed` has started, for no step from `end` on. The scratch are the gates'
    outputs, the state (summed skips, then the layer's input h), the head and the parameters.
    """
    # Read from the tuple once: each reading counts a reference.
    dilations, kernel_size, inputs, gate_bias, matrices = net.dilations, net.kernel_size, net.input, net.gate_bias, net.gates
    outputs, residual_bias, skip_bias = net.outputs, net.residual_bias, net.skip_bias
    head, head_bias, last, last_bias = net.head, net.head_bias, net.last, net.last_bias
    gated, state, between, params = scratch
    channels, skip, layers, start = net.channels, net.skip, len(dilations), features[2]
    batch, width, gates, hidden, n_params = len(x), state.shape[1], 2 * channels, len(head_bias), len(last_bias)
    half, zero = fill(np.float32(math.sqrt(0.5))), fill(np.float32(0.0))
    for b in range(batch):
        for j in range(0, skip, VECTOR):
            store(state, b * width + j, load(skip_bias, j))
        for j in range(0, channels, VECTOR):
            store(state, b * width + skip + j, repeat(x, b) * load(inputs, j) + load(inputs, channels + j))
    for layer in range(layers):
        dilation, row, known = dilations[layer], first_rows[layer], min(dilations[layer], BLOCK)
        place = (t - start) % known  # among the steps that are started at once
        y = (layer * BLOCK + place) * batch * gates
        if place == 0:
            steps = min(known, end - t)
            take_delayed(sums, y, layer, t, steps, batch, past, row, dilation, kernel_size, matrices, gate_bias, features)
        now = (layer * kernel_size + kernel_size - 1) * gates // TILE
        multiply(sums, y, gates, state, skip, width, batch, matrices, now, gates // TILE)
        row += ((kernel_size - 1) * dilation + t - start) * batch
        for b in range(batch):
            # h is kept for the steps to come; h' = (h + W gated + bias) * sqrt(1/2)
            for j in range(0, channels, VECTOR):
                at = y + b * gates + 2 * j
                store(gated, b * channels + j, gate(load(sums, at), load(sums, at + VECTOR)))
                h = load(state, b * width + skip + j)
                store(past, (row + b) * channels + j, h)
                store(state, b * width + skip + j, half * h + load(residual_bias, layer * channels + j))
        multiply(state, 0, width, gated, 0, channels, batch, outputs, layer * width // TILE, width // TILE)
    for b in range(batch):
        for j in range(0, skip, VECTOR):
            store(state, b * width + j, maximum(load(state, b * width + j), zero))
        between[b], params[b] = head_bias, last_bias
    multiply(between, 0, hidden, state, 0, width, batch, head, 0, hidden // TILE)
    for j in range(0, batch * hidden, VECTOR):
        store(between, j, maximum(load(between, j), zero))
    multiply(params, 0, n_params, between, 0, hidden, batch, last, 0, n_params // TILE)


@compiled
def run(
    net: PackedWaveNet,
    density: tuple[int, float, bool],
    past: np.ndarray,
    first_rows: np.ndarray,
    features: tuple[np.ndarray, np.ndarray, int],
    noise: np.ndarray,
    x: np.ndarray,
    u: np.ndarray,
) -> None:
    """Draws samples u (B, n), each from the one before it.

    Args:
        net: A `PackedWaveNet`.
        density: Components of the mixture (0 for none: affine), the bound of its log-scales, whether they are Gaussian.
        past: Inputs of all layers, rows (time, B) of C; those of this call are written behind those before it.
        first_rows: (layers,) where each layer's rows start, (kernel_size - 1) * dilation * B before those of this call.
        features: Those of the call's frames and of one more at either end (B, F + 2, layers, 2 C), the weights (3, hop_length)
            of frames at samples, and the time of the first sample, where a frame begins.
        noise: (B, n, 3) float64, see `quantile`; for an affine map (B, n, 1), the noise itself.
        x: (B,) the sample before the first one; then the last one.
        u: Is written.
    """
    components, bound, gaussian = density
    (batch, steps), start, width = u.shape, features[2], net.outputs.shape[0] // len(net.dilations) * TILE
    sums = np.empty((len(net.dilations), BLOCK, batch, 2 * net.channels), np.float32)
    gated, state = np.empty((batch, net.channels), np.float32), np.zeros((batch, width), np.float32)
    between, params = np.empty((batch, len(net.head_bias)), np.float32), np.empty((batch, len(net.last_bias)), np.float32)
    for t in range(start, start + steps):
        predict(net, sums, past, first_rows, features, t, start + steps, x, (gated, state, between, params))
        for b in range(batch):
            if components:
                value = quantile(params[b], components, bound, gaussian, noise[b, t - start])
            else:
                value = noise[b, t - start, 0] * math.exp(bound * math.tanh(params[b, 1] / bound)) + params[b, 0]
            x[b] = u[b, t - start] = value
