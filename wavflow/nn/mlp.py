"""Perceptrons on the channels at each time step: the conditioners of flows of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.nn.containers import module_list


class MLP(nn.Module):
    """Maps x (B, in_channels, T), and `cond` (B, cond_channels, T), to (B, out_channels, T), each time step by itself.

    The last layer starts at zero: an untrained conditioner yields parameters 0.

    Args:
        in_channels: Channels of x.
        out_channels: Parameters per time step.
        hidden: Widths of the hidden layers.
        cond_channels: Channels of what it is conditioned on, 0 for none.
        squash: Takes asinh of the inputs first, so that 20 deviations out, where the net has seen nothing, count as 3.7.
            Without it a single outlier can cost a density millions of nats.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: Sequence[int] = (64, 64),
        cond_channels: int = 0,
        *,
        squash: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.cond_channels = in_channels, cond_channels
        self.squash = squash
        widths = [in_channels + cond_channels, *hidden, out_channels]
        self.layers = module_list(nn.Linear(a, b) for a, b in pairwise(widths))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Returns (B, out_channels, T).

        Raises:
            ValueError: When x or `cond` has other channels than the net was built for, or they differ in time steps.
        """
        if x.shape[1] != self.in_channels:
            raise ValueError(f"`x` must be (B, {self.in_channels}, T), got {tuple(x.shape)}.")
        if self.cond_channels:
            wanted = (x.shape[0], self.cond_channels, x.shape[-1])
            if cond is None or cond.shape != wanted:
                got = "none" if cond is None else tuple(cond.shape)
                raise ValueError(f"`cond` must be {wanted}, as this net was built for and as x is long, got {got}.")
            x = torch.cat([x, cond], dim=1)
        h = x.transpose(1, 2)
        h = torch.asinh(h) if self.squash else h
        *hidden, last = zip(self._weights(), self.layers, strict=True)
        for weight, layer in hidden:
            h = functional.silu(functional.linear(h, weight, layer.bias))  # smooth, so that densities are
        return functional.linear(h, last[0], last[1].bias).transpose(1, 2)

    def _weights(self) -> list[Tensor]:
        """Returns the matrices of the layers."""
        return [layer.weight for layer in self.layers]


class MADE(MLP):
    """Masked perceptron: the parameters of channel c depend on all channels before c, on no other, and on all of `cond`.

    The output is (B, n_params * C, T): the first parameter of all channels, then the second of all, as the elementwise
    bijections take it. A hidden unit of degree d sees the channels up to the d-th; the channel after that, and all later ones,
    see it. Degrees are dealt in turn: 1, 2, .. C - 1, 1, 2, ..; with `cond` from 0, a degree that sees `cond` alone.

    Args:
        channels: C.
        n_params: Parameters per channel.
        hidden: Widths; each at least C - 1 (with `cond` at least C), else some channel could not see all before it.
        cond_channels: See `MLP`.
        squash: See `MLP`.

    References:
        MADE (Germain et al., 2015), https://arxiv.org/abs/1502.03509
    """

    def __init__(
        self,
        channels: int,
        n_params: int,
        hidden: Sequence[int] = (64, 64),
        cond_channels: int = 0,
        *,
        squash: bool = False,
    ) -> None:
        least = 0 if cond_channels or channels == 1 else 1
        if hidden and min(hidden) < channels - least:
            raise ValueError(
                f"`hidden` must be widths of at least {channels - least} for {channels} channels, got {tuple(hidden)}: "
                "a narrower layer hides some channels from later ones."
            )
        super().__init__(channels, n_params * channels, hidden, cond_channels, squash=squash)
        inputs = torch.cat([torch.arange(1, channels + 1), torch.zeros(cond_channels, dtype=torch.long)])
        inner = [least + torch.arange(width) % (channels - least) for width in hidden]
        outputs = torch.arange(channels).repeat(n_params)  # channel c, counted from 1, sees degrees up to c - 1
        for layer, (before, after) in zip(self.layers, pairwise([inputs, *inner, outputs]), strict=True):
            mask = (before <= after.unsqueeze(1)).to(layer.weight.dtype)
            layer.register_buffer("mask", mask, persistent=False)

    def _weights(self) -> list[Tensor]:
        return [layer.weight * layer.get_buffer("mask") for layer in self.layers]
