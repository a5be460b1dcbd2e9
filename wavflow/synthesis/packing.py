"""A WaveNet's weights as the engines read them: in tiles, padded to whole vectors, constants folded in.

A matrix is kept in tiles of 32 outputs, each in one piece, its inputs in pairs: a product reads memory from one end to the
other, and its sums stay in registers. In bfloat16 a pair of inputs shares words of 32 bits:

    shared     | high half: even input | low half: odd input |
    odd weight  = the word shifted up, exactly bfloat16;    even weight = the word itself, read as float32: it costs nothing

The low half then sits in the last bits of the even weight; `shared_words` rounds that one with it in view, so that it is as
near as bfloat16 would have been. Where whole blocks of samples are multiplied, arithmetic takes the time and not reading: then
processors that multiply bfloat16 read `paired_words`, and those with matrix tiles `tile_words`, the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.kernels import TILE, VECTOR, compiles
from wavflow.nn.wavenet import WaveNet

BLOCK = 16  # steps whose delayed taps are multiplied at once, at most
ROWS = 256  # time steps of a block, at most
Words = Callable[[np.ndarray], np.ndarray]
"""Rounds float32 pairs of inputs (tiles, inputs / 2, 2, TILE) to bfloat16 and lays them out."""


class PackedWaveNet(NamedTuple):
    """What the engines read. C, S and H are the widths of the residual path, the skip path and the head, padded.

    The 2C sums of a gate go by vectors, 16 of its tanh and then the 16 of its sigmoid that belong to them. The outputs of a
    layer are one row, (S + C, padded): skip first, then the next input.
    """

    dilations: np.ndarray  # (layers,)
    kernel_size: int
    channels: int  # C
    skip: int  # S
    input: np.ndarray  # (inputs + 1, C): weights of the samples, bias
    gate_bias: np.ndarray  # (layers, 2C)
    gates: np.ndarray  # tiles C -> 2C of each layer's taps, the oldest first
    outputs: np.ndarray  # tiles C -> S + C of each layer
    residual_bias: np.ndarray  # (layers, C)
    skip_bias: np.ndarray  # (S,), of all layers
    head: np.ndarray  # tiles S -> H, always float32, as the next three
    head_bias: np.ndarray  # (H,)
    last: np.ndarray  # tiles H -> parameters
    last_bias: np.ndarray  # (parameters, padded)


@torch.no_grad()
def pack(net: WaveNet, words: Words | None = None) -> PackedWaveNet:
    """Packs a causal WaveNet.

    Args:
        net: A WaveNet.
        words: Puts the layers' matrices into bfloat16: `shared_words`, `paired_words` or `tile_words`. None leaves them in
            float32, which biases and head are in anyway.

    Raises:
        RuntimeError: Where Numba does not compile: nothing but compiled code reads this.
    """
    if not compiles():
        raise RuntimeError("engines must be compiled, but NUMBA_DISABLE_JIT is set: unset it, or draw with `Vocoder.sample`.")
    layers, channels, skip = len(net.dilations), whole(net.channels, VECTOR), whole(net.head.in_features, VECTOR)
    width, hidden = whole(skip + channels, TILE), whole(skip, TILE)
    # (layers, taps, 2, C, C of the tap), the oldest tap first
    gates = torch.stack([_weight(gate).unflatten(0, (2, -1)).unflatten(2, (net.kernel_size, -1)) for gate in net.gates])
    inputs = whole(channels, TILE if words is tile_words else VECTOR)
    gates = by_vectors(padded(gates.permute(0, 3, 4, 1, 2), {-1: channels, -3: inputs}))
    # The factors that hold the variance of the residual path and of the summed skips are left to the weights.
    residual_scale, skip_scale = math.sqrt(0.5), math.sqrt(1.0 / layers)
    outputs, skip_bias, residual_bias = [], torch.zeros(skip).float(), torch.zeros(layers, channels).float()
    for i, output in enumerate(net.outputs):
        weight, bias = _weight(output).T, output.bias.float()
        to_skip, to_next = weight.split([net.head.in_features, weight.shape[1] - net.head.in_features], dim=1)
        matrix = torch.cat([padded(skip_scale * to_skip, {-1: skip}), residual_scale * to_next], dim=1)
        outputs.append(padded(matrix, {-1: width, -2: inputs}))
        skip_bias[: net.head.in_features] += skip_scale * bias[: net.head.in_features]
        residual_bias[i, : to_next.shape[1]] = residual_scale * bias[net.head.in_features :]
    gate_bias = torch.stack([gate.bias.float().unflatten(0, (2, -1)) for gate in net.gates])
    parameters = whole(net.last.out_features, TILE)
    return PackedWaveNet(
        np.array(net.dilations),
        net.kernel_size,
        channels,
        skip,
        padded(torch.cat([_weight(net.input).T, net.input.bias.float()[None]]), {-1: channels}).numpy(),
        by_vectors(padded(gate_bias, {-1: channels})).numpy(),
        tiles(gates.flatten(0, 1), words),
        tiles(torch.stack(outputs), words),
        residual_bias.numpy(),
        skip_bias.numpy(),
        tiles(padded(_weight(net.head).T[None], {-1: hidden, -2: skip})),
        padded(net.head.bias.float(), {-1: hidden}).numpy(),
        tiles(padded(_weight(net.last).T[None], {-1: parameters, -2: hidden})),
        padded(net.last.bias.float(), {-1: parameters}).numpy(),
    )


def projection(net: WaveNet) -> Tensor:
    """Returns the weights (K, layers * 2C) from features of K channels to the gates of all layers."""
    layers, channels = len(net.dilations), whole(net.channels, VECTOR)
    weight = torch.zeros(layers * 2 * net.channels, 0) if net.features is None else _weight(net.features)
    return by_vectors(padded(weight.T.unflatten(1, (layers, 2, -1)), {-1: channels})).flatten(1)


def whole(width: int, unit: int) -> int:
    """Returns the width, rounded up to whole units."""
    return -(-width // unit) * unit


def by_vectors(x: Tensor) -> Tensor:
    """Orders what a gate takes, (..., 2, C), as the engines read it, (..., 2C)."""
    return x.unflatten(-1, (-1, VECTOR)).transpose(-2, -3).flatten(-3).contiguous()


def tiles(matrices: Tensor, words: Words | None = None) -> np.ndarray:
    """Cuts matrices (n, inputs, outputs) into (n * outputs / TILE, inputs / 2, 2 * TILE), or into `words`."""
    n, inputs, outputs = matrices.shape
    cut = matrices.reshape(n, inputs // 2, 2, outputs // TILE, TILE).permute(0, 3, 1, 2, 4)
    pairs = np.ascontiguousarray(cut.reshape(n * outputs // TILE, inputs // 2, 2, TILE).numpy())
    return pairs.reshape(len(pairs), inputs // 2, 2 * TILE) if words is None else words(pairs)


def paired_words(pairs: np.ndarray) -> np.ndarray:
    """Rounds float32 pairs (tiles, inputs / 2, 2, TILE) to bfloat16, the even one in the low half: see `fused_product`."""
    halves = torch.from_numpy(pairs).bfloat16().transpose(-1, -2).contiguous()
    return halves.view(torch.int16).numpy().view(np.uint32)[..., 0]


def tile_words(pairs: np.ndarray) -> np.ndarray:
    """As `paired_words`, half by half: see `wavflow.kernels.products`."""
    return paired_words(pairs).view(np.uint16)


def shared_words(pairs: np.ndarray) -> np.ndarray:
    """Rounds float32 pairs (tiles, inputs / 2, 2, TILE) to bfloat16 and lets each pair share a word of 32 bits."""
    even, odd = (pairs[:, :, i].copy().view(np.uint32).astype(np.int64) for i in (0, 1))
    low = (odd + 0x7FFF + ((odd >> 16) & 1)) >> 16  # to nearest, ties to even
    sign, magnitude = even & 0x80000000, even & 0x7FFFFFFF
    # The float whose bits are the whole word is to be nearest to the even weight. Never below zero: the sign is kept.
    high = np.maximum((magnitude - low + 0x8000) >> 16, 0) << 16
    return (sign | high | low).astype(np.uint32)


def _weight(linear: nn.Linear) -> Tensor:
    return linear.weight.detach().float().cpu()


def padded(x: Tensor, sizes: dict[int, int]) -> Tensor:
    """Pads dimensions, counted from the last one, with zeros at their end."""
    amounts = [0, 0] * x.dim()
    for dim, size in sizes.items():
        amounts[2 * (-dim - 1) + 1] = size - x.shape[dim]
    return functional.pad(x.detach().float().cpu(), amounts)


def to_numpy(x: Tensor) -> np.ndarray:
    """Returns a tensor as an array, of the same memory where it is on the CPU."""
    return x.detach().cpu().numpy()
