"""The flow contract: invertible maps that return their value and their log-derivative together.

A flow is a base density and a chain of invertible maps, `log p(x) = log base(z) + log |dz/dx|`. Everything has the layout
(B, C, T): audio is C = 1, a vector of D features is C = D and T = 1. `log_det` is the log-derivative of the map *that was
called*, summed over channels and kept per time step, (B, T), in float32 or better whatever autocast says, so that
likelihoods are known sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wavflow.arguments import at_least_float32
from wavflow.distributions import LocationScale
from wavflow.nn.containers import module_list


class Transform(nn.Module):
    """An invertible map. `cond` is what it is conditioned on; each map says what that holds."""

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Maps x (B, C, T) to `z` (B, C, T); also returns log |dz/dx| (B, T) in nats."""
        raise NotImplementedError

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Maps z (B, C, T) back to `x` (B, C, T); also returns log |dx/dz| (B, T) in nats."""
        raise NotImplementedError

    def initialize(self, x: Tensor, cond: Any = None) -> None:
        """Sets parameters from data x (B, C, T), in maps that do so; containers pass the call on."""

    @property
    def context(self) -> tuple[float, float]:
        """Left and right context of the inverse: how many time steps before and after t its output at t depends on."""
        return self.context_of("inverse")

    def context_of(self, direction: str) -> tuple[float, float]:
        """Returns the context of one direction, "forward" or "inverse"; (0, 0) for a map that treats each time step alone."""
        return 0, 0


class Inverse(Transform):
    """A transform turned round: its forward is the other's inverse. Turns a MAF into an IAF.

    It does not pass `initialize` on, since its data are outputs of the wrapped transform, not inputs.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def context_of(self, direction: str) -> tuple[float, float]:
        """Returns that of the wrapped transform's other direction."""
        return self.transform.context_of("inverse" if direction == "forward" else "forward")

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns the wrapped transform's inverse."""
        return self.transform.inverse(x, cond)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns the wrapped transform's forward."""
        return self.transform(z, cond)


class Chain(Transform):
    """Transforms in a row: forward applies the first one first, inverse the last one first."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.transforms = module_list(transforms)

    @torch.no_grad()
    def initialize(self, x: Tensor, cond: Any = None) -> None:
        """Initializes each transform with what those before it make of the data."""
        for transform in self.transforms:
            transform.initialize(x, cond)
            x, _ = transform(x, cond)

    def context_of(self, direction: str) -> tuple[float, float]:
        """Returns the sum over the transforms."""
        left, right = zip(*(transform.context_of(direction) for transform in self.transforms), strict=True)
        return sum(left), sum(right)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns the composed map and the sum of the log-derivatives."""
        log_det = log_det_of_identity(x)
        for transform in self.transforms:
            x, step = transform(x, cond)
            log_det = log_det + step
        return x, log_det

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns the composed inverse and the sum of the log-derivatives."""
        log_det = log_det_of_identity(z)
        for transform in reversed(self.transforms):
            z, step = transform.inverse(z, cond)
            log_det = log_det + step
        return z, log_det


class Flow(nn.Module):
    """A density: a transform from data to noise, and the base density of the noise.

    Args:
        transform: Maps data x to noise z.
        base: Elementwise density of z, e.g. `Gaussian()`.

    Examples:
        >>> conditioner = WaveNet(in_channels=1, out_channels=2, layers=4, channels=8)
        >>> flow = Flow(Autoregressive(Affine(), conditioner), Gaussian())
        >>> x = flow.sample(torch.randn(1, 1, 100))
        >>> flow.log_prob(x).shape  # nats, of each time step
        torch.Size([1, 100])
    """

    def __init__(self, transform: Transform, base: LocationScale) -> None:
        super().__init__()
        self.transform = transform
        self.base = base

    def initialize(self, x: Tensor, cond: Any = None) -> None:
        """Initializes the maps that take parameters from data, such as `ActNorm`, with x (B, C, T): once, before training."""
        self.transform.initialize(x, cond)

    def log_prob(self, x: Tensor, cond: Any = None) -> Tensor:
        """Returns log p(x) per time step, (B, T), in nats."""
        z, log_det = self.transform(x, cond)
        return self.base_log_prob(z) + log_det

    def base_log_prob(self, z: Tensor) -> Tensor:
        """Returns the log-density of noise z (B, C, T) under the base, summed over channels: (B, T)."""
        return self.base.log_prob(at_least_float32(z)).sum(dim=1)

    def sample(self, z: Tensor, cond: Any = None) -> Tensor:
        """Maps noise z (B, C, T), drawn by `noise`, to data (B, C, T)."""
        return self.transform.inverse(z, cond)[0]

    def sample_and_log_prob(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the data x (B, C, T) of noise z, log p(x) (B, T), and log |dx/dz| (B, T).

        Stateless: z is known here, so the density of an IAF's own sample costs nothing more.
        """
        x, log_det = self.transform.inverse(z, cond)
        return x, self.base_log_prob(z) - log_det, log_det

    def noise(
        self,
        shape: tuple[int, ...],
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        like: Tensor | None = None,
    ) -> Tensor:
        """Draws base noise of a shape; `temperature` multiplies its scale, `like` gives dtype and device."""
        dtype, device = (None, None) if like is None else (like.dtype, like.device)
        return temperature * self.base.standard_noise(shape, generator=generator, dtype=dtype, device=device)


def log_det_of_identity(x: Tensor) -> Tensor:
    """Returns zeros (B, T) in the dtype of log-derivatives, for x (B, C, T)."""
    return at_least_float32(x.new_zeros(x.shape[0], x.shape[-1]))


def check_channels(x: Tensor, channels: int) -> Tensor:
    """Returns x; raises ValueError unless it is (B, channels, T)."""
    if x.dim() != 3 or x.shape[1] != channels:
        raise ValueError(f"`x` must be (B, {channels}, T), got {tuple(x.shape)}: a vector of D features is (B, D, 1).")
    return x
