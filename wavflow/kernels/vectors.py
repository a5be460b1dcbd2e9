"""Vectors for code that Numba compiles: 16 float32 numbers at a time, spelled out.

Numba leaves loops like those of the engines scalar, some ten times slower. `Vector` is what LLVM maps to the registers that the
processor has. Arrays are read by flat index, in whole vectors. No compiler is needed, and nothing runs at import: machine
code is made when a function is first called, and kept on disk.

A matrix product reads *words* of 32 bits: a word of a float32 array is one number; a word of a uint32 array is two neighboring
numbers in bfloat16, the first in the low half, which processors with AVX512-BF16 multiply and add at once, into float32.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.extending import models, overload, register_model

from wavflow.kernels import TILE, VECTOR
from wavflow.kernels.compiling import compiled

intrinsic: Callable[[Callable], Callable] = extending.intrinsic  # Numba's own type has the caller give `typing` too


class _BFloat(ir.Type):
    """LLVM's bfloat16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


FLOATS, _WORDS, _HALVES = (ir.VectorType(element, VECTOR) for element in (ir.FloatType(), ir.IntType(32), _BFloat()))
_SHORTS = ir.VectorType(ir.IntType(16), VECTOR)
_PAIRS, _DOT = ir.VectorType(_BFloat(), 2 * VECTOR), "llvm.x86.avx512bf16.dpbf16ps.512"


class VectorType(types.Type):
    """Numba's type of 16 float32 numbers in registers."""


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: VectorType) -> None:
        super().__init__(manager, numba_type, FLOATS)


Vector = VectorType(name="Vector")


def flat_address(context: Any, builder: ir.IRBuilder, element: ir.Type, array_type: Any, array: Any, index: Any) -> Any:
    """Emits the address of a flat index of an array, as that of an element of another type."""
    if array_type.dtype not in (types.float32, types.uint32, types.uint16) or array_type.layout != "C":
        raise TypeError(f"a vector comes from a contiguous array of float32, uint32 or uint16, not from {array_type}")
    start = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [index]), element.as_pointer())


def _all_lanes(builder: ir.IRBuilder, scalar: Any) -> Any:
    empty = ir.Constant(ir.VectorType(scalar.type, VECTOR), ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_WORDS, [0] * VECTOR))


def _load(builder: ir.IRBuilder, address: Any, align: int = 4) -> Any:
    value = builder.load(address)
    value.align = align
    return value


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Reads the vector at a flat index of a float32 array, or a uint16 one of bfloat16; of shared words, the even weights."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        if array.dtype == types.uint16:
            halves = _load(builder, flat_address(context, builder, _SHORTS, signature.args[0], *values), align=2)
            words = builder.shl(builder.zext(halves, _WORDS), ir.Constant(_WORDS, [16] * VECTOR))
            return builder.bitcast(words, FLOATS)
        return _load(builder, flat_address(context, builder, FLOATS, signature.args[0], *values))

    return Vector(array, types.intp), emit


@intrinsic
def load_odd(typing: Any, array: Any, index: Any) -> Any:
    """Reads the odd weights of the pairs whose even weights start at a flat index: a tile further on, or the low halves."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        if array.dtype == types.float32:
            index = builder.add(values[1], ir.Constant(values[1].type, TILE))
            return _load(builder, flat_address(context, builder, FLOATS, signature.args[0], values[0], index))
        words = _load(builder, flat_address(context, builder, _WORDS, signature.args[0], *values))
        return builder.bitcast(builder.shl(words, ir.Constant(_WORDS, [16] * VECTOR)), FLOATS)

    return Vector(array, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Writes a vector from a flat index of a float32 array on; to bfloat16, of uint16 or words of two, it is rounded."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        array, index, vector = values
        if signature.args[0].dtype != types.float32:
            vector = builder.fptrunc(vector, _HALVES)
        builder.store(vector, flat_address(context, builder, vector.type, signature.args[0], array, index)).align = 2
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
        address = flat_address(context, builder, ir.FloatType(), signature.args[0], *values)
        return _all_lanes(builder, builder.load(address))

    return Vector(array, types.intp), emit


def vector_at(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any) -> Any:
    """Emits the load of a vector of float32 numbers, or of words, from a flat index of an array."""
    kind = FLOATS if array_type.dtype == types.float32 else _WORDS
    return _load(builder, flat_address(context, builder, kind, array_type, array, index))


def fused_product(context: Any, builder: ir.IRBuilder, total: Any, x_type: Any, x: Any, i: Any, weights: Any) -> Any:
    """Emits `total + x[i] * weights` for a vector of weights; of words of two, both products."""
    element = ir.FloatType() if x_type.dtype == types.float32 else ir.IntType(32)
    word = _all_lanes(builder, builder.load(flat_address(context, builder, element, x_type, x, i)))
    if x_type.dtype == types.float32:
        return builder.call(_instruction(builder, "llvm.fma.v16f32", [FLOATS] * 3), [word, weights, total])
    operands = [builder.bitcast(operand, _PAIRS) for operand in (word, weights)]
    return builder.call(_instruction(builder, _DOT, [FLOATS, _PAIRS, _PAIRS]), [total, *operands])


def _instruction(builder: ir.IRBuilder, name: str, arguments: list[ir.Type]) -> ir.Function:
    return builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(FLOATS, arguments), name)


def _choose(comparison: str, doc: str) -> Callable:
    @intrinsic
    def choose(typing: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            x, y = values
            return builder.select(builder.fcmp_ordered(comparison, x, y), y, x)

        return Vector(Vector, Vector), emit

    choose.__doc__ = doc
    return choose


maximum = _choose("<", "Returns the larger of two vectors, lane by lane; x where that is NaN.")
minimum = _choose(">", "Returns the smaller of two vectors, lane by lane; x where that is NaN.")


@intrinsic
def times_power_of_two(typing: Any, x: Any, exponent: Any) -> Any:
    """Returns `x * 2^n` for x > 0; n comes in the last bits of a float, where adding a large number has put it."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        x, exponent = (builder.bitcast(value, _WORDS) for value in values)
        return builder.bitcast(builder.add(x, builder.shl(exponent, ir.Constant(_WORDS, [23] * VECTOR))), FLOATS)

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


_MAGIC = np.float32(1.5 * 2**23)  # added to a small number, it leaves it rounded in the last bits
_TAYLOR = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(7))  # of 2^f; |f| <= 1/2: 1.2e-7 off
_TWO_LOG2_E = np.float32(2 / math.log(2))


@compiled
def exp_twice(x: Any) -> Any:
    """Returns `exp(2 x)` of a vector; x is held between -9 and 9, where tanh has become 1 in float32."""
    x = minimum(maximum(x, fill(np.float32(-9.0))), fill(np.float32(9.0))) * fill(_TWO_LOG2_E)
    rounded = x + fill(_MAGIC)
    f = x - (rounded - fill(_MAGIC))
    p = fill(_TAYLOR[5]) + f * fill(_TAYLOR[6])
    p = fill(_TAYLOR[3]) + f * (fill(_TAYLOR[4]) + f * p)
    p = fill(_TAYLOR[0]) + f * (fill(_TAYLOR[1]) + f * (fill(_TAYLOR[2]) + f * p))
    return times_power_of_two(p, rounded)


@compiled
def gate(a: Any, b: Any) -> Any:
    """Returns `tanh(a) * (1 + tanh(b))` of vectors, with one division: `2 (A - 1) B / ((A + 1) (B + 1))`, A = exp(2 a)."""
    one, two = fill(np.float32(1.0)), fill(np.float32(2.0))
    a, b = exp_twice(a), exp_twice(b)
    return (a - one) * (two * b) / ((a + one) * (b + one))
