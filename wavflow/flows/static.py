"""Elementwise maps whose parameters are weights: no conditioner computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wavflow.flows.base import Transform, check_channels
from wavflow.flows.elementwise import Affine, Bijection


class Static(Transform):
    """An elementwise bijection whose parameters are weights, the same at all times: `z[c, t] = tau(x[c, t]; params[c])`.

    `Static(Affine())` is the rescaling of NICE, `Static(MixtureCDF(...))` the layer of a Gaussianization flow.

    Args:
        tau: Elementwise bijection.
        channels: C.
    """

    def __init__(self, tau: Bijection, channels: int) -> None:
        super().__init__()
        self.tau = tau
        self.channels = channels
        self.params = nn.Parameter(torch.zeros(tau.n_params * channels))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._apply_tau(self.tau.forward, x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._apply_tau(self.tau.inverse, z)

    def _apply_tau(self, function: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
        check_channels(x, self.channels)
        y, log_slope = function(x, self.params[None, :, None])  # broadcasts: a mixture is made once, not B * T times
        return y, log_slope.expand(x.shape).sum(dim=1)


class FromData(Static):
    """A `Static` map that takes its first parameters from a batch of data, in the first call of `initialize` alone.

    The buffer `initialized` is saved, so that a resumed run keeps what it has learned. A subclass defines `_start`.
    """

    def __init__(self, tau: Bijection, channels: int) -> None:
        super().__init__(tau, channels)
        self.initialized = nn.Buffer(torch.tensor(False))

    @torch.no_grad()
    def initialize(self, x: Tensor, cond: Any = None) -> None:
        """Takes the parameters from x (B, C, T), unless that was done before.

        Raises:
            ValueError: Where a channel is constant or not finite, or its deviation is out of the bounds of `tau`.
        """
        check_channels(x, self.channels)
        if self.initialized:
            return
        values = x.transpose(0, 1).flatten(1)
        check_varies(values)
        self.params.copy_(self._start(values))
        self.initialized.fill_(True)

    def _start(self, values: Tensor) -> Tensor:
        """Returns the parameters (n_params * C,) for data (C, N)."""
        raise NotImplementedError


class ActNorm(FromData):
    """A loc and a scale for each channel, which start as those of a first batch.

    Untrained it is the identity. `initialize` makes each channel of its batch have mean 0 and deviation 1.

    References:
        Glow (Kingma & Dhariwal, 2018), section 3.1, https://arxiv.org/abs/1807.03039. There the first training batch
        is taken silently; here `initialize` must be called.
    """

    tau: Affine

    def __init__(self, channels: int) -> None:
        super().__init__(Affine(bound=80.0), channels)  # exp(80) is finite in float32; nets need narrower bounds

    def _start(self, values: Tensor) -> Tensor:
        log_scale = values.std(dim=1, correction=0).log()
        return torch.cat([values.mean(dim=1), self.tau.bound * torch.atanh(log_scale / self.tau.bound)])


def check_varies(values: Tensor) -> None:
    """Raises ValueError, with their numbers, where channels of data (C, N) are constant or not finite."""
    for fault, where in (
        ("not finite", ~values.isfinite().all(dim=1)),
        ("constant", values.amin(dim=1) == values.amax(dim=1)),
    ):
        if where.any():
            channels = ", ".join(str(c) for c in where.nonzero().flatten().tolist())
            raise ValueError(
                f"`x` must vary in every channel and be finite; of {values.shape[1]} values each, those of channel {channels} "
                f"are {fault}: leave these channels out or clean the data."
            )
