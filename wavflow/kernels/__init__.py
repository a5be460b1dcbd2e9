"""Vectors and passes for a processor, compiled by Numba: what engines and training build on."""

import os
from functools import cache

VECTOR = 16  # numbers in a vector; widths are padded to it
TILE = 32  # outputs of a tile of a matrix, see `wavflow.synthesis.packing`


def compiles() -> bool:
    """Whether Numba compiles: not where NUMBA_DISABLE_JIT is set, as debuggers need it; then torch does what it can."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


@cache
def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies words of two bfloat16 numbers, see `wavflow.kernels.vectors.fused_product`."""
    from llvmlite import binding  # at the first call, as Numba is imported elsewhere

    return bool(binding.get_host_cpu_features().get("avx512bf16"))
