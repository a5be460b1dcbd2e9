"""Products of blocks of rows with a matrix, for code that Numba compiles: sums stay in registers, 32 outputs at a time.

Vectors take 8 rows at a time, whose 16 sums hide how long an addition takes. Processors with AMX take 32 rows of bfloat16, kept
as uint16, by matrix tiles of 16 rows and 64 bytes:

    tiles 0 1   sums of rows 0 to 15, outputs 0 to 15 and 16 to 31        tiles 4    rows 0 to 15, 32 inputs
          2 3   of rows 16 to 31                                                5    rows 16 to 31
                                                                                6 7  weights of both sixteens of outputs
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from wavflow.kernels import TILE, VECTOR
from wavflow.kernels.vectors import FLOATS, flat_address, fused_product, intrinsic, vector_at

BLOCK_ROWS = 8  # that vectors take at a time; tiles take 32
_BYTE, _HALF = ir.IntType(8), TILE // 2
_CONFIGURATION = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])  # palette 1; bytes, rows of each tile
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@cache
def multiplies_tiles() -> bool:
    """Whether the processor has tiles and the system, which is asked here, lets this process use them."""
    if sys.platform != "linux" or not binding.get_host_cpu_features().get("amx-bf16"):
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


class SumsType(types.Type):
    """Numba's type of the sums of a block."""


@register_model(SumsType)
class _SumsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: SumsType) -> None:
        super().__init__(manager, numba_type, ir.ArrayType(FLOATS, 2 * BLOCK_ROWS))


Sums = SumsType(name="Sums")


def _for_tiles(array: Any) -> bool:
    return array.dtype == types.uint16


def _call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    """Emits an instruction on tiles."""
    values = [ir.Constant(_BYTE, x) if isinstance(x, int) else x for x in arguments]
    signature, name = ir.FunctionType(ir.VoidType(), [x.type for x in values]), f"llvm.x86.{name}"
    builder.call(builder.module.globals.get(name) or ir.Function(builder.module, signature, name), values)


def _at(builder: ir.IRBuilder, index: Any, row: int, step: Any, column: int) -> Any:
    """Returns `index + row * step + column`."""
    index = builder.add(index, builder.mul(step, ir.Constant(step.type, row)))
    return builder.add(index, ir.Constant(index.type, column))


@intrinsic
def open_tiles(typing: Any, array: Any) -> Any:
    """Readies the tiles, if these are to multiply the array."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        if _for_tiles(array):
            constant = ir.Constant(ir.ArrayType(_BYTE, 64), bytearray(_CONFIGURATION))
            table = cgutils.global_constant(builder, "tiles", constant)
            _call(builder, "ldtilecfg", builder.bitcast(table, _BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(array), emit


@intrinsic
def close_tiles(typing: Any, array: Any) -> Any:
    """Gives the tiles back."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        if _for_tiles(array):
            _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(array), emit


@intrinsic
def load_sums(typing: Any, y: Any, at: Any, step: Any, weights: Any) -> Any:
    """Reads the sums of a block from a flat index of y on, its rows `step` numbers apart."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        y, at, step, _ = values
        if _for_tiles(weights):
            _move_tiles(context, builder, "tileloadd64", signature.args[0], y, at, step)
            return context.get_dummy_value()
        sums = ir.Constant(ir.ArrayType(FLOATS, 2 * BLOCK_ROWS), ir.Undefined)
        for i in range(2 * BLOCK_ROWS):
            index = _at(builder, at, i // 2, step, i % 2 * VECTOR)
            sums = builder.insert_value(sums, vector_at(context, builder, signature.args[0], y, index), i)
        return sums

    return (types.none if _for_tiles(weights) else Sums)(y, types.intp, types.intp, weights), emit


@intrinsic
def store_sums(typing: Any, y: Any, at: Any, step: Any, sums: Any) -> Any:
    """Writes the sums of a block back, see `load_sums`."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        y, at, step, found = values
        if sums != Sums:
            _move_tiles(context, builder, "tilestored64", signature.args[0], y, at, step)
            return context.get_dummy_value()
        for i in range(2 * BLOCK_ROWS):
            index = _at(builder, at, i // 2, step, i % 2 * VECTOR)
            place = flat_address(context, builder, FLOATS, signature.args[0], y, index)
            builder.store(builder.extract_value(found, i), place).align = 4
        return context.get_dummy_value()

    return types.void(y, types.intp, types.intp, sums), emit


def _move_tiles(context: Any, builder: ir.IRBuilder, instruction: str, array_type: Any, y: Any, at: Any, step: Any) -> None:
    for tile in range(4):
        index = _at(builder, at, tile // 2 * _HALF, step, tile % 2 * VECTOR)
        place = flat_address(context, builder, _BYTE, array_type, y, index)
        _call(builder, instruction, tile, place, builder.mul(step, ir.Constant(step.type, 4)))


@intrinsic
def add_products(typing: Any, sums: Any, x: Any, i: Any, step: Any, weights: Any, at: Any) -> Any:
    """Adds a block's next inputs, from flat index i of x on, times the weights from `at` on: a word, or 32 for tiles."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        total, x, i, step, matrix, at = values
        if not _for_tiles(weights):
            x_type, matrix_type = signature.args[1], signature.args[4]
            columns = [vector_at(context, builder, matrix_type, matrix, _at(builder, at, 0, step, c)) for c in (0, VECTOR)]
            for k in range(2 * BLOCK_ROWS):
                word = _at(builder, i, k // 2, step, 0)
                before = builder.extract_value(total, k)
                after = fused_product(context, builder, before, x_type, x, word, columns[k % 2])
                total = builder.insert_value(total, after, k)
            return total
        row_bytes = builder.mul(step, ir.Constant(step.type, 2)), ir.Constant(step.type, 4 * TILE)
        for k in range(2):
            inputs = flat_address(context, builder, _BYTE, signature.args[1], x, _at(builder, i, k * _HALF, step, 0))
            outputs = flat_address(context, builder, _BYTE, signature.args[4], matrix, _at(builder, at, 0, step, k * TILE))
            _call(builder, "tileloadd64", 4 + k, inputs, row_bytes[0])
            _call(builder, "tileloadd64", 6 + k, outputs, row_bytes[1])
        for k in range(4):
            _call(builder, "tdpbf16ps", k, 4 + k // 2, 6 + k % 2)
        return context.get_dummy_value()

    return sums(sums, x, types.intp, types.intp, weights, types.intp), emit
