"""Gaussianization flow: rotations, and between them each channel made Gaussian by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavflow.distributions import Gaussian, Logistic
from wavflow.flows.elementwise import MixtureCDF
from wavflow.flows.static import FromData


class Gaussianization(FromData):
    """`z[c] = Phi^-1(F_c(x[c]))`, F_c the CDF of a trainable mixture of logistics: each marginal becomes Gaussian.

    Both tails are kept as logarithms, so that z, log_det and the inverse stay true however far out x lies; a CDF that is
    computed as a number saturates at |z| = 5.3 in float32.

    `initialize` makes F_c a kernel density of its batch, so that a chain of these and rotations Gaussianizes before it is
    trained.

    Args:
        channels: C.
        n_components: K logistics for each channel.

    References:
        Gaussianization flows (Meng et al., 2020), sections 3 and 4, https://arxiv.org/abs/2003.01941. There the anchors are
        samples; here they are quantiles, which K < N points follow more closely, and F_c keeps the variance of the data,
        which the width of the kernels would add to.
    """

    tau: MixtureCDF

    def __init__(self, channels: int, n_components: int = 16) -> None:
        super().__init__(MixtureCDF(Logistic, Gaussian(), n_components), channels)

    def _start(self, values: Tensor) -> Tensor:
        """Returns the components: locs at K quantiles, all of one scale.

        The scale is that of the best kernel density of K Gaussian points, `std * (4 sqrt(pi) / (pi^4 K))^(1/5)`.
        """
        count = self.tau.n_components
        std, mean = torch.std_mean(values, dim=1, correction=0, keepdim=True)  # (C, 1)
        order = values.sort(dim=1).values  # torch.quantile refuses more than 16 million values
        at = (torch.arange(count, device=values.device) + 0.5) / count * (values.shape[1] - 1)
        anchors = order[:, at.round().long()]  # (C, K)
        scale = std * (4 * math.sqrt(math.pi) / (math.pi**4 * count)) ** 0.2
        variance = anchors.var(dim=1, correction=0, keepdim=True) + (math.pi * scale) ** 2 / 3
        shrink = (std / variance.sqrt()).clamp(max=1.0)  # not more than 1: outliers widen std alone
        loc, log_scale = mean + shrink * (anchors - mean), torch.log(shrink * scale)
        return self.tau.params_of(*(p[None, :, None] for p in (torch.zeros_like(loc), loc, log_scale))).flatten()
