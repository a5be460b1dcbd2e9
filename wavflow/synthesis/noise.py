"""Noise that a stream takes piece by piece."""

from __future__ import annotations

from torch import Tensor


class Noise:
    """Hands out noise (B, T) piece by piece, from its start on.

    Raises:
        ValueError: When it ends before the draw does.
    """

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.at = noise, 0

    def __call__(self, samples: int) -> Tensor:
        """Returns the next samples (B, n)."""
        self.at += samples
        if self.at > self.noise.shape[-1]:
            raise ValueError(f"`noise` ends after {self.noise.shape[-1]} samples, {self.at} are needed: one for each sample.")
        return self.noise[:, self.at - samples : self.at]
