"""Vectors and passes for a processor, compiled by Numba: what engines and training build on."""

VECTOR = 16  # numbers in a vector; widths are padded to it
TILE = 32  # outputs of a tile of a matrix, see `wavflow.synthesis.packing`
