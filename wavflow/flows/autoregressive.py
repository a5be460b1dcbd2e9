"""Autoregressive flows, over time or over channels: MAF one way round, IAF the other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from wavflow.arguments import at_least
from wavflow.flows.base import Transform, check_channels, log_det_of_identity
from wavflow.flows.elementwise import Bijection
from wavflow.flows.reshape import fold, fold_cond, unfold
from wavflow.flows.solver import Solution, fixed_point


class Autoregressive(Transform):
    """Elementwise bijection whose parameters at time t see only what came before t.

    `z[t] = tau(x[t]; conditioner(x[<t], cond))`. Forward scores all T samples in one pass (MAF, the teacher); inverse draws
    them one by one. Wrapped in `Inverse` it is the other way round (IAF, the student's flows).

    With a group of r samples, those are the channels of one step, for tau and conditioner alike, and the conditioner costs
    1/r; the parameters of a group see the groups before it. Densities stay exact for each sample:

        t        0 1 2 3 | 4 5 6 7 | 8 ...      r = 4: tau is a map of 4 channels whose channel c sees 0 ... c alone,
        step        0    |    1    | 2 ...      such as `TriangularAffine(4)`; `log_det` holds each one's own log-slope

    Args:
        tau: Elementwise bijection, e.g. `Affine()`; for a group of one channel, `TriangularAffine` too.
        conditioner: Causal; maps (B, C, T) and `cond` to the parameters of tau. It is shifted here, by one step, so that no
            parameter sees the sample that it acts on. Its `stepper(cond, batch)` gives a function that does the same step by
            step; its `context` tells how many steps before and after its own an output sees. With a group it is given
            (B, r * C, T / r), see `fold`, and `cond` at that rate.
        group: r, samples to a step; T must be a multiple of it.

    References:
        MAF (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057; IAF (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934
    """

    def __init__(self, tau: Bijection, conditioner: nn.Module, group: int = 1) -> None:
        super().__init__()
        at_least(1, group=group)
        self.tau = tau
        self.conditioner: Any = conditioner
        self.group = group

    def context_of(self, direction: str) -> tuple[float, float]:
        """Forward sees as far as the conditioner, one step earlier for the shift; the inverse sees the whole past."""
        if direction == "inverse":
            return math.inf, 0
        before, after = self.conditioner.context  # the last sample of a group is r - 1 further from the past than the first
        return (before + 2) * self.group - 1, max(0, after * self.group - 1)

    def params(self, x: Tensor, cond: Any = None) -> Tensor:
        """Returns the parameters of tau that act on x (B, C, T), one set for each step, from the steps before it alone."""
        return self.conditioner(shift_right(fold(x, self.group)), fold_cond(cond, self.group))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns z (B, C, T) and log |dz/dx| (B, T), in one pass."""
        return self._unfold(*self.tau.forward(fold(x, self.group), self.params(x, cond)))

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns x (B, C, T) and log |dx/dz| (B, T), in T cached steps, or in T / r with a group."""
        z = fold(z, self.group)
        step = self.conditioner.stepper(fold_cond(cond, self.group), batch=z.shape[0])
        x = torch.zeros_like(z[..., 0])
        xs, log_slopes = [], []
        for t in range(z.shape[-1]):
            params = step(x)
            x, log_slope = self.tau.inverse(z[..., t : t + 1], params.unsqueeze(-1))
            x = x.squeeze(-1).to(z.dtype)
            xs.append(x)
            log_slopes.append(log_slope.squeeze(-1))
        return self._unfold(torch.stack(xs, dim=-1), torch.stack(log_slopes, dim=-1))

    @torch.no_grad()
    def solve(self, z: Tensor, cond: Any = None, tolerance: float = 1e-6, max_sweeps: int | None = None) -> Solution:
        """Inverts by parallel sweeps `x <- tau^-1(z; params(x))` instead of steps; exact after at most one for each step.

        Raises:
            NotConvergedError: When `max_sweeps` were not enough.
        """

        def sweep(x: Tensor) -> Tensor:
            return self._unfold(*self.tau.inverse(fold(z, self.group), self.params(x, cond)))[0].to(z.dtype)

        return fixed_point(sweep, z, tolerance, max_sweeps)

    def _unfold(self, y: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values of all steps as samples (B, C, T), and their log-slopes (B, T)."""
        return unfold(y, self.group), unfold(log_slope, self.group).sum(dim=1)


class MaskedAutoregressive(Autoregressive):
    """Autoregressive over the channels instead of time: the layer of a MAF of vectors; wrapped in `Inverse`, of an IAF.

    `z[c] = tau(x[c]; conditioner(x[<c], cond))`. Forward scores all C channels in one pass, inverse draws them in C passes.

    Args:
        tau: Elementwise bijection.
        conditioner: Maps (B, C, T) and `cond` to parameters (B, n_params * C, T); is itself masked, so that the parameters of
            channel c see the channels before c alone, e.g. `MADE`. Where it sees other times too, its `context` tells how far.
        channels: C.

    References:
        MAF (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057
    """

    def __init__(self, tau: Bijection, conditioner: nn.Module, channels: int) -> None:
        super().__init__(tau, conditioner)
        self.channels = channels

    def context_of(self, direction: str) -> tuple[float, float]:
        """Forward sees as far as the conditioner; the last channel of the inverse sees through all those before it."""
        before, after = getattr(self.conditioner, "context", (0, 0))
        passes = 1 if direction == "forward" else self.channels - 1
        return passes * before, passes * after

    def params(self, x: Tensor, cond: Any = None) -> Tensor:
        """Returns the parameters (B, n_params * C, T) that act on x (B, C, T), each from x[<c] alone."""
        return self.conditioner(check_channels(x, self.channels), cond)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns x (B, C, T) and log |dx/dz| (B, T), in C passes."""
        stepper = getattr(self.conditioner, "stepper", None)
        step = None if stepper is None else stepper(cond, batch=z.shape[0])
        x, log_det = torch.zeros_like(z), log_det_of_identity(z)
        for c, channel in enumerate(z.split(1, dim=1)):  # channels after c are still 0, and no parameter sees them
            if step is None:
                params = self.params(x, cond).unflatten(1, (self.tau.n_params, -1))[:, :, c]
            else:
                params = step(x[:, c - 1] if c else torch.zeros_like(z[:, 0]))
            drawn, log_slope = self.tau.inverse(channel, params)
            x = torch.cat([x[:, :c], drawn.to(z.dtype), x[:, c + 1 :]], dim=1)
            log_det = log_det + log_slope.squeeze(1)
        return x, log_det


def shift_right(x: Tensor) -> Tensor:
    """Delays x (B, C, T) by one step, a zero first: `y[t] = x[t-1]`."""
    return torch.nn.functional.pad(x, (1, -1))
