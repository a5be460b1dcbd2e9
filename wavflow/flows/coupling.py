"""Coupling: one half of the channels tells how to map the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wavflow.flows.base import Transform, check_channels
from wavflow.flows.elementwise import Bijection


class Coupling(Transform):
    """Elementwise bijection of one half of the channels, with parameters from the other half, which is kept.

    `z = (kept, tau(changed; conditioner(kept, cond)))`. Both directions are one pass. With `Shift` it is a layer of NICE, with
    `Affine` one of Real-NVP, Glow and WaveGlow.

    Args:
        tau: Elementwise bijection.
        conditioner: Maps the kept channels (B, Ck, T) and `cond` to parameters (B, n_params * (C - Ck), T); it need be neither
            causal nor invertible. `Coupling.halves` tells Ck and C - Ck.
        channels: C, at least 2. The first half, the larger one if C is odd, is kept.
        swap: Keeps the last half instead; alternate it from layer to layer.

    Raises:
        ValueError: With fewer than two channels there are no halves.

    References:
        NICE (Dinh et al., 2014), section 3.2, https://arxiv.org/abs/1410.8516; Real NVP (Dinh et al., 2017), section 3,
        https://arxiv.org/abs/1605.08803
    """

    def __init__(self, tau: Bijection, conditioner: nn.Module, channels: int, swap: bool = False) -> None:
        super().__init__()
        self.halves(channels)
        self.tau, self.conditioner = tau, conditioner
        self.channels, self.swap = channels, swap

    @staticmethod
    def halves(channels: int, swap: bool = False) -> tuple[int, int]:
        """Returns the numbers of channels that are kept and changed.

        >>> Coupling.halves(5)
        (3, 2)
        """
        if channels < 2:
            raise ValueError(f"`channels` of a coupling must be at least 2, got {channels}: fold the signal or add a feature.")
        return (channels // 2, channels - channels // 2) if swap else (channels - channels // 2, channels // 2)

    def context_of(self, direction: str) -> tuple[float, float]:
        """Returns the conditioner's `context`, or (0, 0) if it has none."""
        return getattr(self.conditioner, "context", (0, 0))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._apply_tau(self.tau.forward, x, cond)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._apply_tau(self.tau.inverse, z, cond)

    def _apply_tau(self, function: Callable, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        check_channels(x, self.channels)
        first, last = x.tensor_split((self.channels - self.channels // 2,), dim=1)
        kept, changed = (last, first) if self.swap else (first, last)
        changed, log_slope = function(changed, self.conditioner(kept, cond))
        halves = (changed, kept) if self.swap else (kept, changed)
        return torch.cat(halves, dim=1), log_slope.sum(dim=1)
