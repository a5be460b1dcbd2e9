"""What a gated layer does between its matrix products, compiled: each pass reads and writes its rows once.

Rows are the time steps of one item. Arrays are float32, or uint16 that hold bfloat16; sums are float32.
"""

from __future__ import annotations

import math

import numpy as np

from wavflow.kernels import VECTOR
from wavflow.kernels.compiling import compiled
from wavflow.kernels.vectors import exp_twice, fill, load, repeat, store


@compiled
def gather(h, taps, dilation, ahead):
    """Writes the taps (T, K * C) of h (T, C), the oldest first; zeros before and after h."""
    rows, channels, width = h.shape[0], h.shape[1], taps.shape[1]
    count, zero = width // channels, fill(np.float32(0.0))
    for t in range(rows):
        for k in range(count):  # tap k is (count - 1 - k) * dilation late
            source, to = t - (count - 1 - k - ahead) * dilation, t * width + k * channels
            if 0 <= source < rows:
                for c in range(0, channels, VECTOR):
                    store(taps, to + c, load(h, source * channels + c))
            else:
                for c in range(0, channels, VECTOR):
                    store(taps, to + c, zero)


@compiled
def gate(y, gated, bias, frames, kernel):
    """Turns y (T, 2C) into `tanh(y + bias + features)`, and its halves a and b into `gated` (T, C), `a * (1 + b)`.

    Args:
        y: Is replaced.
        gated: Is written.
        bias: (2C,).
        frames: (F, 2C) features at frame rate.
        kernel: (3, T / F), from frames to samples, see `interpolate`.
    """
    width, channels, hop, last = y.shape[1], gated.shape[1], kernel.shape[1], frames.shape[0] - 1
    one = fill(np.float32(1.0))
    for t in range(y.shape[0]):
        f, j = t // hop, t % hop
        before, here, after = max(f - 1, 0) * width, f * width, min(f + 1, last) * width
        p, q, r = repeat(kernel, j), repeat(kernel, hop + j), repeat(kernel, 2 * hop + j)
        for c in range(0, channels, VECTOR):
            i, d = t * width + c, channels + c
            a = load(y, i) + load(bias, c) + p * load(frames, before + c)
            b = load(y, i + channels) + load(bias, d) + p * load(frames, before + d)
            a = a + q * load(frames, here + c) + r * load(frames, after + c)
            b = b + q * load(frames, here + d) + r * load(frames, after + d)
            a, b = exp_twice(a), exp_twice(b)
            share = one / ((a + one) * (b + one))
            a, b = (a - one) * (b + one) * share, (b - one) * (a + one) * share
            store(y, i, a), store(y, i + channels, b)
            store(gated, t * channels + c, a * (one + b))


@compiled
def advance(out, bias, h, skip, next_h):
    """Adds a layer's outputs (T, S, or S + C for one with a residual) to the skips (T, S), and to h for the next h."""
    rows, skips, width = skip.shape[0], skip.shape[1], out.shape[1]
    channels, half = width - skips, fill(np.float32(math.sqrt(0.5)))
    for t in range(rows):
        for c in range(0, skips, VECTOR):
            i = t * skips + c
            store(skip, i, load(skip, i) + load(out, t * width + c) + load(bias, c))
        for c in range(0, channels, VECTOR):
            i = t * channels + c
            store(next_h, i, half * (load(h, i) + load(out, t * width + skips + c) + load(bias, skips + c)))


@compiled
def ungate_frozen(grad, tanhs, grad_y):
    """Writes the gradient of y (T, 2C) from that of the gated (T, C), given the tanhs that `gate` made of y."""
    width, channels = tanhs.shape[1], grad.shape[1]
    one = fill(np.float32(1.0))
    for t in range(tanhs.shape[0]):
        for c in range(0, channels, VECTOR):
            i = t * width + c
            a, b, g = load(tanhs, i), load(tanhs, i + channels), load(grad, t * channels + c)
            store(grad_y, i, g * (one + b) * (one - a * a))
            store(grad_y, i + channels, g * a * (one - b * b))


@compiled
def ungate(grad, tanhs, grad_y, gated, kernel, grad_frames, grad_bias):
    """As `ungate_frozen`; also writes the gated again, and adds to the gradients of frames and bias.

    A frame's rows are summed in registers, and these sums then added to the three frames that they were made from.
    """
    rows, width, channels, hop, frames = tanhs.shape[0], tanhs.shape[1], grad.shape[1], kernel.shape[1], grad_frames.shape[0]
    one, zero = fill(np.float32(1.0)), fill(np.float32(0.0))
    for f in range(frames):
        before, here, after = max(f - 1, 0) * width, f * width, min(f + 1, frames - 1) * width
        for c in range(0, channels, VECTOR):
            pa = qa = ra = sa = pb = qb = rb = sb = zero
            for j in range(min(hop, rows - f * hop)):
                t = f * hop + j
                i, n = t * width + c, t * channels + c
                a, b, g = load(tanhs, i), load(tanhs, i + channels), load(grad, n)
                p, q, r = repeat(kernel, j), repeat(kernel, hop + j), repeat(kernel, 2 * hop + j)
                u = one + b
                store(gated, n, a * u)
                x, y = g * u * (one - a * a), g * a * (one - b * b)
                store(grad_y, i, x), store(grad_y, i + channels, y)
                pa, qa, ra, sa = pa + p * x, qa + q * x, ra + r * x, sa + x
                pb, qb, rb, sb = pb + p * y, qb + q * y, rb + r * y, sb + y
            d = channels + c
            store(grad_bias, c, load(grad_bias, c) + sa), store(grad_bias, d, load(grad_bias, d) + sb)
            store(grad_frames, before + c, load(grad_frames, before + c) + pa)
            store(grad_frames, here + c, load(grad_frames, here + c) + qa)
            store(grad_frames, after + c, load(grad_frames, after + c) + ra)
            store(grad_frames, before + d, load(grad_frames, before + d) + pb)
            store(grad_frames, here + d, load(grad_frames, here + d) + qb)
            store(grad_frames, after + d, load(grad_frames, after + d) + rb)


@compiled
def retreat(grad_taps, grad_out, grad_bias, skips, dilation, ahead, factor):
    """Replaces the residual's part of grad_out (T, S + C) by the gradient of the layer's input h, times a factor.

    That is the part itself and the gradients of all taps (T, K * C) that h went into, which lie after it:

        h[t] was tap 2 of t, tap 1 of t + d, tap 0 of t + 2d        three taps, none ahead
    """
    rows, width, taps = grad_out.shape[0], grad_out.shape[1], grad_taps.shape[1]
    channels, factor = width - skips, fill(np.float32(factor))
    count = taps // channels
    for t in range(rows):
        for c in range(0, channels, VECTOR):
            i = t * width + skips + c
            total = load(grad_out, i)
            for k in range(count):
                seen = t + (count - 1 - k - ahead) * dilation
                if 0 <= seen < rows:
                    total = total + load(grad_taps, seen * taps + k * channels + c)
            store(grad_out, i, factor * total)
            store(grad_bias, skips + c, load(grad_bias, skips + c) + factor * total)
