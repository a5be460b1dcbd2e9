"""Machine code of the steps, made by Numba when it is first called: no compiler is needed, and nothing runs at import.

Numba leaves loops like these scalar, some ten times slower, so vectors are spelled out: `Vector` is 16 float32 numbers, which
LLVM maps to the registers that the processor has. Arrays are read by flat index, in whole vectors; `wavflow.synthesis.packing`
has the layout. All is in this one file because Numba's cache on disk looks at no other.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

from wavflow.synthesis.packing import BLOCK, TILE, VECTOR, PackedWaveNet

_FLOATS, _WORDS = (ir.VectorType(element, VECTOR) for element in (ir.FloatType(), ir.IntType(32)))


class VectorType(types.Type):
    """Numba's type of 16 float32 numbers in registers."""


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: VectorType) -> None:
        super().__init__(manager, numba_type, _FLOATS)


Vector = VectorType(name="Vector")


def compiled(function: Callable) -> Callable:
    """Compiles at the first call; kept on disk, beside this file or in the user's cache, where one of them can be written."""
    options = {"error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # a read-only installation, and no home
        return njit(**options)(function)


def _address(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any, element: ir.Type) -> Any:
    if array_type.dtype not in (types.float32, types.uint32) or array_type.layout != "C":
        raise TypeError(f"a vector comes from a contiguous array of 32-bit numbers, not from {array_type}")
    start = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [index]), element.as_pointer())


def _all_lanes(builder: ir.IRBuilder, scalar: Any) -> Any:
    empty = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_WORDS, [0] * VECTOR))


def _load(builder: ir.IRBuilder, address: Any) -> Any:
    value = builder.load(address)
    value.align = 4
    return value


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Reads the vector that starts at a flat index of a float32 array; of shared words, the even weights."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return _load(builder, _address(context, builder, signature.args[0], *values, _FLOATS))

    return Vector(array, types.intp), emit


@intrinsic
def load_odd(typing: Any, array: Any, index: Any) -> Any:
    """Reads the odd weights of the pairs whose even weights start at a flat index: a tile further on, or the low halves."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        if array.dtype == types.float32:
            index = builder.add(values[1], ir.Constant(values[1].type, TILE))
            return _load(builder, _address(context, builder, signature.args[0], values[0], index, _FLOATS))
        words = _load(builder, _address(context, builder, signature.args[0], *values, _WORDS))
        return builder.bitcast(builder.shl(words, ir.Constant(_WORDS, [16] * VECTOR)), _FLOATS)

    return Vector(array, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Writes a vector from a flat index of a float32 array on."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        builder.store(values[2], _address(context, builder, signature.args[0], *values[:2], _FLOATS)).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, Vector), emit


@intrinsic
def fill(typing: Any, scalar: Any) -> Any:
    """Returns a vector of 16 times the same number."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return _all_lanes(builder, values[0])

    return Vector(types.float32), emit


@intrinsic
def repeat(typing: Any, array: Any, index: Any) -> Any:
    """Returns a vector of 16 times the number at a flat index of a float32 array."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        address = _address(context, builder, signature.args[0], *values, ir.FloatType())
        return _all_lanes(builder, builder.load(address))

    return Vector(array, types.intp), emit


@intrinsic
def maximum(typing: Any, x: Any, y: Any) -> Any:
    """Returns the larger of two vectors, lane by lane; x where that is NaN."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        x, y = values
        return builder.select(builder.fcmp_ordered("<", x, y), y, x)

    return Vector(Vector, Vector), emit


@intrinsic
def times_power_of_two(typing: Any, x: Any, exponent: Any) -> Any:
    """Returns `x * 2^n` for x > 0; n comes in the last bits of a float, where adding a large number has put it."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        x, exponent = (builder.bitcast(value, _WORDS) for value in values)
        return builder.bitcast(builder.add(x, builder.shl(exponent, ir.Constant(_WORDS, [23] * VECTOR))), _FLOATS)

    return Vector(Vector, Vector), emit


def _define(symbol: Callable, instruction: Callable) -> None:
    @intrinsic
    def compute(typing: Any, x: Any, y: Any) -> Any:
        # `contract`: a product and the sum that it goes into may become one instruction
        return Vector(Vector, Vector), lambda context, builder, signature, values: instruction(
            builder, *values, flags=("contract",)
        )

    @overload(symbol)
    def choose(x, y):  # no annotations: Numba compares them
        return (lambda x, y: compute(x, y)) if isinstance(x, VectorType) and isinstance(y, VectorType) else None


_define(operator.add, ir.IRBuilder.fadd)
_define(operator.sub, ir.IRBuilder.fsub)
_define(operator.mul, ir.IRBuilder.fmul)
_define(operator.truediv, ir.IRBuilder.fdiv)


@compiled
def multiply(y, y0, y_step, x, x0, x_step, rows, weights, first, tiles):
    """`y[row] += x[row] @ W` for rows of x and y that start at flat indices; W is the tiles from `first` on.

    Tile by tile, so that however many rows there are, the weights come from far memory once.
    """
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


_MAGIC = np.float32(1.5 * 2**23)  # added to a small number, it leaves it rounded in the last bits
_TAYLOR = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(7))  # of 2^f; |f| <= 1/2: 1.2e-7 off
_TWO_LOG2_E = np.float32(2 / math.log(2))


@compiled
def exp_twice(x: Any) -> Any:
    """Returns `exp(2 x)` of a vector; x is held between -9 and 9, where tanh has become 1 in float32."""
    zero, nine = fill(np.float32(0.0)), fill(np.float32(9.0))
    x = zero - maximum(zero - maximum(x, zero - nine), zero - nine)
    x = x * fill(_TWO_LOG2_E)
    rounded = x + fill(_MAGIC)
    f = x - (rounded - fill(_MAGIC))
    p = fill(_TAYLOR[5]) + f * fill(_TAYLOR[6])
    p = fill(_TAYLOR[3]) + f * (fill(_TAYLOR[4]) + f * p)
    p = fill(_TAYLOR[0]) + f * (fill(_TAYLOR[1]) + f * (fill(_TAYLOR[2]) + f * p))
    return times_power_of_two(p, rounded)


@compiled
def gate(out: np.ndarray, o: int, y: np.ndarray, y0: int, channels: int) -> None:
    """`out = tanh(a) * (1 + tanh(b))` of y, a's channels before b's; one division: `2 (A - 1) B / ((A + 1) (B + 1))`."""
    one, two = fill(np.float32(1.0)), fill(np.float32(2.0))
    for j in range(0, channels, VECTOR):
        a, b = exp_twice(load(y, y0 + j)), exp_twice(load(y, y0 + channels + j))
        store(out, o + j, (a - one) * (two * b) / ((a + one) * (b + one)))


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
def take_delayed(y, y0, width, layer, t, steps, batch, past, row, dilation, kernel_size, delayed, gate_bias, features):
    """Starts the sums y of a layer's next steps: bias, features, and the taps before the current one, which are all known.

    d = 4:   inputs    . . . a b c d | e         taps t - 4 of four steps are a b c d: one product of matrices,
             steps                   | 1 2 3 4   and the weights are read once for all
    """
    frames, kernel, start = features
    hop, tiles, one_frame = kernel.shape[1], width // TILE, frames.shape[2] * width
    for step in range(steps):
        frame, j = (t + step) // hop - start // hop + 1, (t + step) % hop
        before, here, after = fill(kernel[0, j]), fill(kernel[1, j]), fill(kernel[2, j])
        for b in range(batch):
            at = ((b * frames.shape[1] + frame) * frames.shape[2] + layer) * width
            to = y0 + (step * batch + b) * width
            for j in range(0, width, VECTOR):
                bias = load(gate_bias, layer * width + j) + before * load(frames, at - one_frame + j)
                store(y, to + j, bias + here * load(frames, at + j) + after * load(frames, at + one_frame + j))
    channels, older = width // 2, kernel_size - 1
    for tap in range(older):
        x0 = (row + (t - start + tap * dilation) * batch) * channels
        multiply(y, y0, width, past, x0, channels, steps * batch, delayed, (layer * older + tap) * tiles, tiles)


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
    # Read from the tuple once: each reading counts a reference.
    dilations, kernel_size, inputs, gate_bias, delayed = net.dilations, net.kernel_size, net.input, net.gate_bias, net.delayed
    current, outputs, residual_bias, skip_bias = net.current, net.outputs, net.residual_bias, net.skip_bias
    head, head_bias, last, last_bias = net.head, net.head_bias, net.last, net.last_bias
    components, bound, gaussian = density

    channels, skip, batch, layers, start = net.channels, net.skip, u.shape[0], len(dilations), features[2]
    gates, width, hidden, n_params = 2 * channels, outputs.shape[0] // layers * TILE, len(head_bias), len(last_bias)
    sums = np.empty((layers, BLOCK, batch, gates), np.float32)
    began, ends = np.zeros(layers, np.intp), np.full(layers, start)
    # state: the summed skips, then the layer's input h
    gated, state = np.empty((batch, channels), np.float32), np.zeros((batch, width), np.float32)
    between, params = np.empty((batch, hidden), np.float32), np.empty((batch, n_params), np.float32)
    half, zero = fill(np.float32(math.sqrt(0.5))), fill(np.float32(0.0))
    for t in range(start, start + u.shape[1]):
        for b in range(batch):
            for j in range(0, skip, VECTOR):
                store(state, b * width + j, load(skip_bias, j))
            for j in range(0, channels, VECTOR):
                store(state, b * width + skip + j, repeat(x, b) * load(inputs, j) + load(inputs, channels + j))
        for layer in range(layers):
            dilation, row, block = dilations[layer], first_rows[layer], layer * BLOCK * batch * gates
            if t == ends[layer]:
                steps = min(dilation, BLOCK, start + u.shape[1] - t)
                take_delayed(
                    sums, block, gates, layer, t, steps, batch, past, row, dilation, kernel_size, delayed, gate_bias, features
                )
                began[layer], ends[layer] = t, t + steps
            y = block + (t - began[layer]) * batch * gates
            multiply(sums, y, gates, state, skip, width, batch, current, layer * gates // TILE, gates // TILE)
            row += ((kernel_size - 1) * dilation + t - start) * batch
            for b in range(batch):
                gate(gated, b * channels, sums, y + b * gates, channels)
                # h is kept for the steps to come; h' = (h + W gated + bias) * sqrt(1/2)
                for j in range(0, channels, VECTOR):
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
        for b in range(batch):
            if components:
                value = quantile(params[b], components, bound, gaussian, noise[b, t - start])
            else:
                value = noise[b, t - start, 0] * math.exp(bound * math.tanh(params[b, 1] / bound)) + params[b, 0]
            x[b] = u[b, t - start] = value
