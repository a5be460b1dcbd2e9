"""One gated layer of a WaveNet as one Triton kernel, for a GPU: forward, and backward in two more.

    taps of h --W--> + bias + interpolated features -> gate --W_out--> skip, residual

Eager PyTorch writes the gathered taps, the sum, both halves of the gate and the outputs to memory and reads them again. Here a
block of time steps goes through the layer on the chip: h and skip are read, the next h and skip are written, and that is all.
Products are summed in float32, gates computed in it. The backward computes the gates again, so the forward keeps its inputs
alone; the gradients of the matrices are matrix products, which torch does well.

Not measured: tested through Triton's interpreter on a CPU, and compiled for sm_90, where in bfloat16 nothing spills; in exact
float32 the sums do, so it is meant for autocast. Off unless `use_fused` switches it on. This module imports Triton, which not
every platform has: import it where it is used.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from wavflow.nn.upsampler import Conditioning, interpolate
from wavflow.nn.wavenet import WaveNet, delay

WIDEST = 128  # channels; at 256 a block would need more shared memory than a processor of an H100 has
STEPS = 64  # time steps to a block
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
RESIDUAL = tl.constexpr(math.sqrt(0.5))


def use_fused(model: nn.Module, fused: bool = True) -> nn.Module:
    """Switches the fused layer on or off in all WaveNets of a model, and returns the model; it takes effect on CUDA alone.

    Off by default: it was never measured on a GPU. `WaveNet2d` has layers of its own kind and stays as it is.
    """
    for module in model.modules():
        if type(module) is WaveNet:
            module.fused = wavenet_layer if fused else None
    return model


def wavenet_layer(
    net: WaveNet, i: int, h: Tensor, skip: Tensor | float, cond: Conditioning | None, projected: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Layer i of a WaveNet, all of it: returns the next h (B, T, C) and skip (B, T, S), in h's dtype.

    Args:
        net: The WaveNet.
        i: Number of the layer.
        h: Its input (B, T, C).
        skip: The sum so far, or 0.
        cond: Gives the kernel from frames to samples.
        projected: Features of all layers at frame rate, (layers, B, F, 2 * C).
    """
    features = kernel = None
    if projected is not None:
        cond.to_samples(projected[i][..., :0], h.shape[1])  # checks the length
        features = projected[i]
        kernel = cond.kernel
        if kernel is None:  # one feature a sample; filled in place, for a graph can't copy from the host
            kernel = h.new_zeros(3, 1)
            kernel[1] = 1.0
    if not isinstance(skip, Tensor):
        skip = h.new_zeros(*h.shape[:2], net.head.in_features)
    gate, output = net.gates[i], net.outputs[i]
    ahead = 0 if net.causal else net.kernel_size // 2
    weights = gate.weight, gate.bias, output.weight, output.bias
    return gated_layer(h, skip, *weights, features, kernel, net.dilations[i], ahead)


def gated_layer(
    h: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    features: Tensor | None = None,
    kernel: Tensor | None = None,
    dilation: int = 1,
    ahead: int = 0,
) -> tuple[Tensor, Tensor]:
    """Returns the next h and skip: `y = W taps(h) + bias + features`, `out = W_out (tanh(a) * (1 + tanh(b))) + out_bias`.

    a and b are the halves of y; out's first S channels add to skip, the others to h, which is then scaled by sqrt(1/2).
    Differentiable in all tensors.

    Args:
        h: Input (B, T, C), C at most 128.
        skip: Sum so far (B, T, S).
        weight: (2 * C, K * C), of the oldest tap first.
        bias: (2 * C,).
        out_weight: (S + C, C), or (S, C) for the last layer, which leaves h as it is.
        out_bias: As many.
        features: Projected, at frame rate (B, F, 2 * C); none where there are none.
        kernel: From frames to samples, (3, T / F), see `interpolate`.
        dilation: Time steps between the taps.
        ahead: Taps after t; the others are at t and before.

    Raises:
        ValueError: For another dtype or too many channels.
    """
    if h.dtype not in DTYPES:
        raise ValueError(f"`h` must be float32, bfloat16 or float16, got {h.dtype}: use the layer of WaveNet itself.")
    if max(h.shape[-1], skip.shape[-1]) > WIDEST:
        raise ValueError(
            f"`h` and `skip` must have at most {WIDEST} channels, got {h.shape[-1]} and {skip.shape[-1]}: "
            "use the layer of WaveNet itself, `use_fused(model, False)`."
        )
    weight, out_weight = weight.to(h.dtype), out_weight.to(h.dtype)
    if features is not None:
        features, kernel = features.to(h.dtype), kernel.float()
    skip = skip.to(h.dtype)
    next_h, next_skip = _GatedLayer.apply(h, skip, weight, bias, out_weight, out_bias, features, kernel, dilation, ahead)
    return (next_h if len(out_weight) > skip.shape[-1] else h), next_skip


class _GatedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, skip, weight, bias, out_weight, out_bias, features, kernel, dilation, ahead):
        h, skip, weight, out_weight = (x.contiguous() for x in (h, skip, weight, out_weight))
        features, kernel = (None if x is None else x.contiguous() for x in (features, kernel))
        ctx.save_for_backward(h, weight, bias, out_weight, features, kernel)
        ctx.shifts = dilation, ahead
        next_h = torch.empty_like(h) if len(out_weight) > skip.shape[-1] else h.new_empty(0)
        next_skip = torch.empty_like(skip)
        grid, sizes = _launch(h, weight, features, kernel, dilation, ahead, skip.shape[-1], next_h.numel() > 0)
        _forward[grid](h, weight, bias, features, kernel, out_weight, out_bias, skip, next_h, next_skip, **sizes)
        return next_h, next_skip

    @staticmethod
    def backward(ctx, grad_h, grad_skip):
        h, weight, bias, out_weight, features, kernel = ctx.saved_tensors
        (dilation, ahead), channels, width = ctx.shifts, h.shape[-1], grad_skip.shape[-1]
        residual = len(out_weight) > width
        grad_h, grad_skip = grad_h.contiguous(), grad_skip.contiguous()
        gated, grad_y, grad_input = torch.empty_like(h), h.new_empty(*h.shape[:2], 2 * channels), torch.empty_like(h)
        grid, sizes = _launch(h, weight, features, kernel, dilation, ahead, width, residual)
        _backward_gate[grid](h, weight, bias, features, kernel, out_weight, grad_h, grad_skip, gated, grad_y, **sizes)
        _backward_taps[grid](weight, grad_h, grad_y, grad_input, **sizes)

        grads: list[Tensor | None] = [grad_input, grad_skip] + 8 * [None]
        if any(ctx.needs_input_grad[2:6]):  # not so for a frozen teacher
            shifts = [(k - ahead) * dilation for k in reversed(range(weight.shape[1] // channels))]
            by_tap = [grad_y.flatten(0, 1).T @ delay(h, shift).flatten(0, 1) for shift in shifts]
            grad_out = torch.cat([grad_skip, grad_h * math.sqrt(0.5)], dim=-1) if residual else grad_skip
            grads[2:4] = torch.cat(by_tap, dim=1), grad_y.sum(dim=(0, 1), dtype=bias.dtype)
            grads[4:6] = grad_out.flatten(0, 1).T @ gated.flatten(0, 1), grad_out.sum(dim=(0, 1), dtype=bias.dtype)
        if any(ctx.needs_input_grad[6:8]):
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_(ctx.needs_input_grad[i]) for i, x in ((6, features), (7, kernel))]
                wanted = [x for x in leaves if x.requires_grad]
                found = iter(torch.autograd.grad(interpolate(*leaves), wanted, grad_y))
            grads[6:8] = [next(found) if x.requires_grad else None for x in leaves]
        return tuple(grads)


def _launch(
    h: Tensor,
    weight: Tensor,
    features: Tensor | None,
    kernel: Tensor | None,
    dilation: int,
    ahead: int,
    skip: int,
    residual: bool,
) -> tuple[tuple[int, int], dict]:
    """Returns the grid, blocks of time steps by items, and what all kernels are told of sizes; blocks are powers of two."""
    (batch, time, channels), conditioned = h.shape, features is not None
    padded, padded_skip = (max(16, triton.next_power_of_2(width)) for width in (channels, skip))
    sizes = {
        "T": time,
        "F": features.shape[1] if conditioned else 1,
        "dilation": dilation,
        "ahead": ahead,
        "HOP": kernel.shape[1] if conditioned else 1,
        "CONDITIONED": conditioned,
        "RESIDUE": residual,
        "K": weight.shape[1] // channels,
        "C": channels,
        "S": skip,
        "BLOCK_C": padded,
        "BLOCK_S": padded_skip,
        "BLOCK_K": min(padded, 32),
        "BLOCK_T": STEPS,
        "PRECISION": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "num_warps": 4 if padded <= 64 else 8,
    }
    return (triton.cdiv(time, STEPS), batch), sizes


@triton.jit
def _tanh(x):
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))  # right at both ends, where the exponential is inf or 0


@triton.jit
def _gates(
    h, weight, bias, features, kernel, first, t, T, F, dilation, ahead, HOP: tl.constexpr, CONDITIONED: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns tanh of both halves of y, (BLOCK_T, BLOCK_C), at the times t of the item whose first row of h is `first`."""
    n = tl.arange(0, BLOCK_C)
    known = n < C
    a = tl.full((BLOCK_T, BLOCK_C), 0.0, tl.float32)
    b = tl.full((BLOCK_T, BLOCK_C), 0.0, tl.float32)
    for tap in range(K):
        source = t - (K - 1 - tap - ahead) * dilation
        inside = (source >= 0) & (source < T)
        for start in range(0, C, BLOCK_K):
            c = start + tl.arange(0, BLOCK_K)
            rows = tl.load(h + (first + source)[:, None] * C + c[None, :], mask=inside[:, None] & (c < C)[None, :], other=0.0)
            columns = weight + n[None, :] * (K * C) + tap * C + c[:, None]
            there = (c < C)[:, None] & known[None, :]
            a = tl.dot(rows, tl.load(columns, mask=there, other=0.0), a, input_precision=PRECISION)
            b = tl.dot(rows, tl.load(columns + C * K * C, mask=there, other=0.0), b, input_precision=PRECISION)
    a += tl.load(bias + n, mask=known, other=0.0).to(tl.float32)[None, :]
    b += tl.load(bias + C + n, mask=known, other=0.0).to(tl.float32)[None, :]
    if CONDITIONED:
        for neighbour in range(3):
            frame = tl.minimum(tl.maximum(t // HOP + neighbour - 1, 0), F - 1)  # the edge frames are held
            share = tl.load(kernel + neighbour * HOP + t % HOP)[:, None]
            values = features + (tl.program_id(1).to(tl.int64) * F + frame)[:, None] * (2 * C) + n[None, :]
            a += share * tl.load(values, mask=known[None, :], other=0.0).to(tl.float32)
            b += share * tl.load(values + C, mask=known[None, :], other=0.0).to(tl.float32)
    return _tanh(a), _tanh(b)


@triton.jit
def _forward(
    h, weight, bias, features, kernel, out_weight, out_bias, skip, next_h, next_skip, T, F, dilation, ahead,
    HOP: tl.constexpr, CONDITIONED: tl.constexpr, RESIDUE: tl.constexpr, K: tl.constexpr, C: tl.constexpr, S: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    first = tl.program_id(1).to(tl.int64) * T
    a, b = _gates(
        h, weight, bias, features, kernel, first, t, T, F, dilation, ahead, HOP, CONDITIONED, K, C, BLOCK_C, BLOCK_K, BLOCK_T,
        PRECISION,
    )  # fmt: skip
    gated = (a * (1.0 + b)).to(h.dtype.element_ty)

    there = (c < C)[:, None] & (s < S)[None, :]
    columns = tl.load(out_weight + s[None, :] * C + c[:, None], mask=there, other=0.0)
    out = tl.dot(gated, columns, input_precision=PRECISION) + tl.load(out_bias + s, mask=s < S, other=0.0)[None, :]
    place, inside = (first + t)[:, None] * S + s[None, :], (t < T)[:, None] & (s < S)[None, :]
    out += tl.load(skip + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(next_skip + place, out.to(h.dtype.element_ty), mask=inside)
    if RESIDUE:
        there = (c < C)[:, None] & (c < C)[None, :]
        columns = tl.load(out_weight + (S + c)[None, :] * C + c[:, None], mask=there, other=0.0)
        out = tl.dot(gated, columns, input_precision=PRECISION) + tl.load(out_bias + S + c, mask=c < C, other=0.0)[None, :]
        place, inside = (first + t)[:, None] * C + c[None, :], (t < T)[:, None] & (c < C)[None, :]
        out = (out + tl.load(h + place, mask=inside, other=0.0).to(tl.float32)) * RESIDUAL
        tl.store(next_h + place, out.to(h.dtype.element_ty), mask=inside)


@triton.jit
def _backward_gate(
    h, weight, bias, features, kernel, out_weight, grad_h, grad_skip, gated, grad_y, T, F, dilation, ahead,
    HOP: tl.constexpr, CONDITIONED: tl.constexpr, RESIDUE: tl.constexpr, K: tl.constexpr, C: tl.constexpr, S: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Computes the gates again; writes what they gave, and the gradient of their inputs y."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    first = tl.program_id(1).to(tl.int64) * T
    known, rows = (c < C)[None, :], (first + t)[:, None]
    inside = (t < T)[:, None] & known
    a, b = _gates(
        h, weight, bias, features, kernel, first, t, T, F, dilation, ahead, HOP, CONDITIONED, K, C, BLOCK_C, BLOCK_K, BLOCK_T,
        PRECISION,
    )  # fmt: skip
    tl.store(gated + rows * C + c[None, :], (a * (1.0 + b)).to(h.dtype.element_ty), mask=inside)

    grad = tl.load(grad_skip + rows * S + s[None, :], mask=(t < T)[:, None] & (s < S)[None, :], other=0.0)
    matrix = tl.load(out_weight + s[:, None] * C + c[None, :], mask=(s < S)[:, None] & known, other=0.0)
    grad_gated = tl.dot(grad, matrix, input_precision=PRECISION)
    if RESIDUE:
        grad = tl.load(grad_h + rows * C + c[None, :], mask=inside, other=0.0)
        matrix = tl.load(out_weight + (S + c)[:, None] * C + c[None, :], mask=(c < C)[:, None] & known, other=0.0)
        grad_gated += RESIDUAL * tl.dot(grad, matrix, input_precision=PRECISION)
    place = grad_y + rows * (2 * C) + c[None, :]
    tl.store(place, (grad_gated * (1.0 + b) * (1.0 - a * a)).to(h.dtype.element_ty), mask=inside)
    tl.store(place + C, (grad_gated * a * (1.0 - b * b)).to(h.dtype.element_ty), mask=inside)


@triton.jit
def _backward_taps(
    weight, grad_h, grad_y, grad_input, T, F, dilation, ahead,
    HOP: tl.constexpr, CONDITIONED: tl.constexpr, RESIDUE: tl.constexpr, K: tl.constexpr, C: tl.constexpr, S: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums the gradient of h over the taps that see it, which lie after it, and over the residual."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.arange(0, BLOCK_C)
    first = tl.program_id(1).to(tl.int64) * T
    total = tl.full((BLOCK_T, BLOCK_C), 0.0, tl.float32)
    for tap in range(K):
        seen = t + (K - 1 - tap - ahead) * dilation
        inside = (seen >= 0) & (seen < T)
        for start in range(0, 2 * C, BLOCK_K):
            n = start + tl.arange(0, BLOCK_K)
            known = n < 2 * C
            rows = tl.load(
                grad_y + (first + seen)[:, None] * (2 * C) + n[None, :], mask=inside[:, None] & known[None, :], other=0.0
            )
            matrix = weight + n[:, None] * (K * C) + tap * C + c[None, :]
            columns = tl.load(matrix, mask=known[:, None] & (c < C)[None, :], other=0.0)
            total = tl.dot(rows, columns, total, input_precision=PRECISION)
    place, inside = (first + t)[:, None] * C + c[None, :], (t < T)[:, None] & (c < C)[None, :]
    if RESIDUE:
        total += RESIDUAL * tl.load(grad_h + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_input + place, total.to(grad_input.dtype.element_ty), mask=inside)
