"""All gated layers of a WaveNet as one function with a backward of its own: for training and scoring on a CPU.

    taps of h --W--> + bias + features -> tanh, tanh -> gated --W_out--> + bias -> skip, next h

In eager mode half of a training step goes into the sums, tanhs and copies between the matrix products, each of which reads and
writes memory. Here torch computes the products, near the limit of the processor; what lies between two of them is one compiled
pass, see `wavflow.kernels.passes`, and all layers use the same scratch memory. The tanhs are kept for the backward, which
gathers the taps again; where no gradient is asked for, nothing is kept. Skips and the gradients of biases and features are
summed in float32, whatever the products are rounded to.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavflow.kernels import VECTOR, compiles, multiplies_bfloat16

THREADS = 4  # with more, torch's own passes, which use them all, are faster than these, which use one


def fits(h: Tensor, kernel: Tensor, linears: Sequence[nn.Linear]) -> bool:
    """Whether `gated_layers` can take these (on a CPU, whole vectors wide) and is likely to be faster.

    Args:
        h: Input (B, T, C) of the first layer.
        kernel: From frames to samples.
        linears: The layers' matrices.
    """
    if torch.compiler.is_compiling() or not compiles() or h.device.type != "cpu":
        return False
    return (
        (h.dtype == torch.float32 or (h.dtype == torch.bfloat16 and multiplies_bfloat16()))
        and not (kernel.requires_grad and torch.is_grad_enabled())
        and torch.get_num_threads() <= THREADS
        and h.shape[-1] % VECTOR == 0
        and all(x.out_features % VECTOR == 0 and x.weight.dtype == torch.float32 for x in linears)
    )


def gated_layers(
    h: Tensor,
    frames: Tensor,
    kernel: Tensor,
    gates: Sequence[nn.Linear],
    outputs: Sequence[nn.Linear],
    dilations: Sequence[int],
    ahead: int = 0,
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """Returns the summed skips (B, T, S) of all layers, float32; differentiable, once, in h, frames and weights.

    Args:
        h: Input (B, T, C) of the first layer; its dtype, float32 or bfloat16, is that of the products.
        frames: Projected features of all layers, (layers, B, F, 2C).
        kernel: From frames to samples, (3, T / F).
        gates: Of each layer, K * C -> 2C, the oldest tap first.
        outputs: Of each layer, C -> S + C, of the last one C -> S.
        dilations: Time steps between the taps of each layer.
        ahead: Taps after t; the others are at t and before.
        lengths: Time steps of each item; beyond them inputs count as zero, and skips are. T where they are left out.
    """
    lengths = [h.shape[1]] * len(h) if lengths is None else lengths
    weights = [getattr(x, name) for name in ("weight", "bias") for linears in (gates, outputs) for x in linears]
    frames, kernel = frames.float().contiguous(), kernel.float().contiguous()
    if torch.is_grad_enabled() and any(x.requires_grad for x in (h, frames, *weights)):
        return _GatedLayers.apply(h, frames, kernel, dilations, ahead, lengths, *weights)
    skip, (memory, *_), _ = _forward(h, frames, kernel, dilations, ahead, lengths, weights, 1, 1)
    spare.give(memory)
    return skip


def _forward(
    h: Tensor,
    frames: Tensor,
    kernel: Tensor,
    dilations: Sequence[int],
    ahead: int,
    lengths: Sequence[int],
    weights: Sequence[Tensor],
    kept_inputs: int,
    kept_tanhs: int,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], list[Tensor]]:
    """Returns the skips, the memory with the inputs and tanhs of all layers or of the last one alone, and the matrices."""
    from wavflow.kernels import passes  # Numba takes a second to import

    (batch, time, channels), layers = h.shape, len(dilations)
    matrices, biases = [w.to(h.dtype) for w in weights[: 2 * layers]], [words(b) for b in weights[2 * layers :]]
    size = batch * time * channels * h.dtype.itemsize
    memory = spare.take((kept_inputs + 2 * kept_tanhs) * size)
    inputs = memory[: kept_inputs * size].view(h.dtype).view(kept_inputs, batch, time, channels)
    tanhs = memory[kept_inputs * size :][: 2 * kept_tanhs * size].view(h.dtype).view(kept_tanhs, batch, time, 2 * channels)
    taps, gated = h.new_empty(time, matrices[0].shape[1]), h.new_empty(time, channels)
    skip = frames.new_zeros(batch, time, matrices[-1].shape[0])
    inputs[0] = h
    xs, ys, sums, features = words(inputs), words(tanhs), words(skip), words(frames)
    for b, n in enumerate(lengths):  # item by item, so that the scratch stays in the cache
        for i in range(layers):
            y, x, following = min(i, kept_tanhs - 1), *(xs[min(k, kept_inputs - 1), b, :n] for k in (i, i + 1))
            passes.gather(x, words(taps[:n]), dilations[i], ahead)
            torch.mm(taps[:n], matrices[i].T, out=tanhs[y, b, :n])
            passes.gate(ys[y, b, :n], words(gated[:n]), biases[i], features[i, b], words(kernel))
            out = torch.mm(gated[:n], matrices[layers + i].T)
            passes.advance(words(out), biases[layers + i], x, sums[b, :n], following)
    return skip, (memory, inputs, tanhs), matrices


class _GatedLayers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        frames: Tensor,
        kernel: Tensor,
        dilations: Sequence[int],
        ahead: int,
        lengths: Sequence[int],
        *weights: Tensor,
    ) -> Tensor:
        layers, frozen = len(dilations), not (ctx.needs_input_grad[1] or any(ctx.needs_input_grad[6:]))
        kept = 1 if frozen else layers  # only the gradients of weights need what went into the layers
        skip, ctx.kept, matrices = _forward(h, frames, kernel, dilations, ahead, lengths, weights, kept, layers)
        ctx.save_for_backward(kernel, *matrices)
        ctx.plan = dilations, ahead, lengths, frames.shape, frozen
        return skip

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_skip: Tensor) -> tuple[Tensor | None, ...]:
        from wavflow.kernels import passes

        if ctx.kept is None:
            raise RuntimeError(
                "the first backward gave its memory back: for a second, set the WaveNet's `compiled_layers` to False."
            )
        (memory, inputs, tanhs), ctx.kept = ctx.kept, None
        kernel, *matrices = ctx.saved_tensors
        dilations, ahead, lengths, shape, frozen = ctx.plan
        (layers, batch, time, width), skips = tanhs.shape, grad_skip.shape[-1]
        channels = width // 2
        scratch = [tanhs.new_empty(time, n) for n in (matrices[0].shape[1], channels, width, skips + channels)]
        grad_h = tanhs.new_zeros(batch, time, channels)
        grad_frames, grads = kernel.new_zeros(shape), [torch.zeros_like(m, dtype=torch.float32) for m in matrices]
        gate_biases = kernel.new_zeros(layers, width)
        output_biases = kernel.new_zeros(layers + 1, skips + channels)  # the last row takes what is no layer's
        xs, ys, features = words(inputs), words(tanhs), words(grad_frames)
        for b, n in enumerate(lengths):
            taps, gated, grad_y, grad_out = (x[:n] for x in scratch)
            grad_out[:, :skips], grad_out[:, skips:] = grad_skip[b, :n], 0.0  # the skips' part serves all layers
            output_biases[:, :skips] += grad_skip[b, :n].sum(dim=0)
            for i in reversed(range(layers)):
                matrix = matrices[layers + i]
                grad_made = grad_out[:, : len(matrix)]
                grad_gated = torch.mm(grad_made, matrix)
                if frozen:
                    passes.ungate_frozen(words(grad_gated), ys[i, b, :n], words(grad_y))
                else:
                    found = features[i, b], words(gate_biases[i])
                    passes.ungate(words(grad_gated), ys[i, b, :n], words(grad_y), words(gated), words(kernel), *found)
                    passes.gather(xs[i, b, :n], words(taps), dilations[i], ahead)
                    grads[i] += torch.mm(grad_y.T, taps)
                    grads[layers + i] += torch.mm(grad_made.T, gated)
                grad_taps = torch.mm(grad_y, matrices[i])
                scale = math.sqrt(0.5) if i else 1.0  # of the residual of the layer before
                grad_bias = words(output_biases[i - 1])
                passes.retreat(words(grad_taps), words(grad_out), grad_bias, skips, dilations[i], ahead, scale)
            grad_h[b, :n] = grad_out[:, skips:]
        spare.give(memory)
        if frozen:
            return grad_h, *[None] * (5 + 4 * layers)
        grad_biases = [*gate_biases, *(row[: len(m)] for row, m in zip(output_biases, matrices[layers:], strict=False))]
        return grad_h, grad_frames, None, None, None, None, *grads, *grad_biases


class Spare:
    """Memory that steps give back and later steps take again: the page faults of fresh memory cost a tenth of a step.

    All threads share it: a server scores several recordings at once.
    """

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self._lock = threading.Lock()

    @torch.inference_mode(False)  # what is made in it could not be written to outside
    def take(self, size: int) -> Tensor:
        """Returns at least `size` bytes; where all buffers are smaller, a new one replaces the largest."""
        with self._lock:
            at = bisect.bisect_left(self.buffers, size, key=len)
            if at < len(self.buffers):
                return self.buffers.pop(at)
            del self.buffers[-1:]
        return torch.empty(size, dtype=torch.uint8)

    def give(self, memory: Tensor) -> None:
        """Takes back what `take` returned."""
        with self._lock:
            bisect.insort(self.buffers, memory, key=len)


spare = Spare()


def words(x: Tensor) -> np.ndarray:
    """Returns a float32 or bfloat16 tensor as the compiled passes read it, the same memory."""
    x = x.detach()
    return x.numpy() if x.dtype == torch.float32 else x.view(torch.int16).numpy().view(np.uint16)
