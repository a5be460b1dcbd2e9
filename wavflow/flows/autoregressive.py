"""Autoregressive flows: MAF one way round, IAF the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wavflow.flows.base import Transform
from wavflow.flows.elementwise import Bijection
from wavflow.flows.solver import Solution, fixed_point


class Autoregressive(Transform):
    """Elementwise bijection whose parameters at time t see only what came before t.

    `z[t] = tau(x[t]; conditioner(x[<t], cond))`. Forward scores all T samples in one pass (MAF, the teacher); inverse draws
    them one by one. Wrapped in `Inverse` it is the other way round (IAF, the student's flows).

    Args:
        tau: Elementwise bijection, e.g. `Affine()`.
        conditioner: Causal; maps (B, C, T) and `cond` to parameters (B, n_params * C, T). It is shifted here, by one
            sample, so that no parameter sees the sample that it acts on. Its `stepper(cond, batch)` gives a function that
            does the same sample by sample.

    References:
        MAF (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057; IAF (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934
    """

    def __init__(self, tau: Bijection, conditioner: nn.Module) -> None:
        super().__init__()
        self.tau = tau
        self.conditioner = conditioner

    def params(self, x: Tensor, cond: Any = None) -> Tensor:
        """Returns the parameters (B, n_params * C, T) that act on x (B, C, T), each from x[<t] alone."""
        return self.conditioner(shift_right(x), cond)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns z (B, C, T) and log |dz/dx| (B, T), in one pass."""
        z, log_slope = self.tau.forward(x, self.params(x, cond))
        return z, log_slope.sum(dim=1)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns x (B, C, T) and log |dx/dz| (B, T), in T cached steps."""
        step = self.conditioner.stepper(cond, batch=z.shape[0])
        x = torch.zeros_like(z[..., 0])
        xs, log_slopes = [], []
        for t in range(z.shape[-1]):
            params = step(x)
            x, log_slope = self.tau.inverse(z[..., t : t + 1], params.unsqueeze(-1))
            x = x.squeeze(-1).to(z.dtype)
            xs.append(x)
            log_slopes.append(log_slope.squeeze(-1))
        return torch.stack(xs, dim=-1), torch.stack(log_slopes, dim=-1).sum(dim=1)

    @torch.no_grad()
    def solve(self, z: Tensor, cond: Any = None, tolerance: float = 1e-6, max_sweeps: int | None = None) -> Solution:
        """Inverts by parallel sweeps `x <- tau^-1(z; params(x))` instead of steps; exact after at most T of them.

        Raises:
            NotConvergedError: When `max_sweeps` were not enough.
        """
        return fixed_point(lambda x: self.tau.inverse(z, self.params(x, cond))[0].to(z.dtype), z, tolerance, max_sweeps)


def shift_right(x: Tensor) -> Tensor:
    """Delays x (B, C, T) by one sample, a zero first: `y[t] = x[t-1]`."""
    return torch.nn.functional.pad(x, (1, -1))
