"""Linear prediction with weights that are held for blocks of samples, and the recursion that undoes it, differentiable.

    y[t] = e[t] + sum_j w[n, j] y[t - lag[n] - j],        n = t // block length

There each sample waits for those before it, so the loop is compiled by Numba and runs on the CPU, for signals on a GPU too; the
backward is written out. With y = A^-1 e, a gradient g of y becomes A^-T g: the same recursion transposed, from the end on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def prediction(y: Tensor, weights: Tensor, lags: Tensor | None = None) -> Tensor:
    """Returns `sum_j w[n, j] y[t - lag[n] - j]`, (B, T), with silence before y; the arguments are those of `recursion`."""
    windows = _windows(y, lags, *weights.shape[1:])
    # Not a matrix product: autocast would round it, and TF32.
    return (windows * weights.flip(-1).unsqueeze(-2)).sum(dim=-1).flatten(1)


def recursion(e: Tensor, weights: Tensor, lags: Tensor | None = None) -> Tensor:
    """Solves `y - prediction(y) = e` for y; differentiable in e and the weights, twice too.

    Computed in float64: what past samples contribute is large and cancels, which in float32 leaves errors of -42 dB in speech.

    Args:
        e: (B, T).
        weights: (B, N, J), held for T / N samples.
        lags: (B, N), integers, of the first weight of each block; None for 1.

    Returns:
        y (B, T), in the dtype of e.
    """
    return _Recursion.apply(e, weights, lags, False)


class _Recursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, weights: Tensor, lags: Tensor | None, transposed: bool) -> Tensor:
        y = e.double().clone(memory_format=torch.contiguous_format)
        _solve(y, weights.detach().double(), lags, transposed)
        y = y.to(e.dtype)
        ctx.save_for_backward(weights, lags, y if ctx.needs_input_grad[1] else None)
        ctx.transposed = transposed
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, lags, y = ctx.saved_tensors
        grad = _Recursion.apply(grad, weights, lags, not ctx.transposed)
        if y is None:
            return grad, None, None, None
        late, early = (y, grad) if ctx.transposed else (grad, y)
        return grad, _products(late, early, weights, lags), None, None


def _products(late: Tensor, early: Tensor, weights: Tensor, lags: Tensor | None) -> Tensor:
    """Returns `sum_t late[t] * early[t - lag - j]` over the samples t of each block, as the weights are (B, N, J)."""
    windows = _windows(early, lags, *weights.shape[1:]).flip(-1)
    return (late.reshape(windows.shape[:3]).unsqueeze(-1) * windows).sum(dim=2).to(weights.dtype)


def _windows(y: Tensor, lags: Tensor | None, blocks: int, taps: int) -> Tensor:
    """Returns what each sample of y (B, T) is predicted from, the oldest first: (B, N, T / N, J)."""
    length = y.shape[1] // blocks
    lags = torch.ones(len(y), blocks, dtype=torch.long, device=y.device) if lags is None else lags
    first = torch.arange(blocks, device=y.device) * length - lags - (taps - 1)
    index = first.unsqueeze(-1) + torch.arange(length + taps - 1, device=y.device)
    past = y.gather(1, index.clamp_min(0).flatten(1)).unflatten(1, index.shape[1:]) * (index >= 0)
    return past.unfold(-1, taps, 1)


def _solve(signals: Tensor, weights: Tensor, lags: Tensor | None, transposed: bool) -> None:
    """Replaces signals (B, T) by what the recursion, or its transpose, makes of them."""
    if signals.numel() == 0:
        return
    from wavflow.kernels import recursions  # Numba takes a second to import

    (batch, blocks, taps), samples = weights.shape, signals.shape[1]
    lags = torch.ones(batch, blocks, dtype=torch.long) if lags is None else lags.cpu()
    before = int(lags.max()) + taps
    padded = torch.nn.functional.pad(signals.cpu(), (before, 0))
    solve = recursions.recur_back_in_blocks if transposed else recursions.recur_in_blocks
    arrays = (x.numpy() for x in (padded, lags.contiguous(), weights.cpu().contiguous()))
    solve(*arrays, before, samples // blocks)
    signals.copy_(padded[:, before:])
