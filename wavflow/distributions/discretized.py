"""Probability of the bins of PCM audio."""

from __future__ import annotations

import torch
from torch import Tensor

from wavflow.arguments import at_least_float32
from wavflow.distributions.base import Distribution


class Discretized:
    """Probability of the 2^bits equal bins of PCM audio under a continuous density.

    Centers lie at `k / 2^(bits - 1)` for k from -2^(bits - 1) to 2^(bits - 1) - 1; the first and the last bin take the
    tails, so the bins sum to 1. Compared with a density, a mass is smaller by the bin width: for narrow bins
    `log_prob = density.log_prob - (bits - 1) ln 2`.

    Args:
        distribution: Continuous density of audio on [-1, 1).
        bits: Bits per sample, 1 to 24.

    Raises:
        ValueError: If `bits` is not in that range.

    References:
        PixelCNN++ (Salimans et al., 2017), section 2.1, https://arxiv.org/abs/1701.05517
    """

    def __init__(self, distribution: Distribution, bits: int = 16) -> None:
        if not 1 <= bits <= 24:
            raise ValueError(f"`bits` must be from 1 to 24, as float32 resolves, got {bits}: use 16 for usual audio.")
        self.distribution, self.width = distribution, 2.0 ** (1 - bits)

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log-mass of the bin centered at `x`, in nats; `x` is clipped to the range, and not rounded."""
        x = at_least_float32(x).clamp(-1.0, 1.0 - self.width)
        half = self.width / 2
        log_mass = self.distribution.log_mass(x, self.width)
        log_mass = torch.where(x < -1.0 + half, self.distribution.log_cdf(x + half), log_mass)
        return torch.where(x > 1.0 - 3 * half, self.distribution.log_sf(x - half), log_mass)

    def sample(self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws bin centers, without gradient."""
        x = self.distribution.sample(sample_shape, generator)
        return (torch.round(x / self.width) * self.width).clamp(-1.0, 1.0 - self.width)
