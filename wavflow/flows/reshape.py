"""Maps of parts and rearrangements: a signal folded to a coarser rate, or some channels alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wavflow.arguments import at_least
from wavflow.flows.base import Transform


def fold(x: Tensor, factor: int) -> Tensor:
    """Puts `factor` neighboring samples of x (B, C, T) beside each other as channels: (B, factor * C, T / factor).

    All channels of the earliest sample come first; one channel, factor 4:

        t          0 1 2 3 4 5 6 7         channel 0 |  0  4      kept by a `Coupling`, the early half
                                   ->      channel 1 |  1  5
                                           channel 2 |  2  6      changed by it, the late half
                                           channel 3 |  3  7

    So factor 2 splits even from odd samples, and folding by 2 twice is folding by 4.

    Raises:
        ValueError: When T is not a multiple of `factor`.
    """
    if x.shape[-1] % factor:
        raise ValueError(
            f"`x` must have a multiple of {factor} time steps to be folded, got {x.shape[-1]}: cut it to "
            f"{x.shape[-1] // factor * factor} or pad it to {-(-x.shape[-1] // factor) * factor}."
        )
    return x.unflatten(-1, (-1, factor)).permute(0, 3, 1, 2).flatten(1, 2)


def unfold(x: Tensor, factor: int) -> Tensor:
    """Undoes `fold`: (B, factor * C, T / factor) -> (B, C, T)."""
    return x.unflatten(1, (factor, -1)).permute(0, 2, 3, 1).flatten(2)


def fold_cond(cond: Any, factor: int) -> Any:
    """Returns `cond` for the coarse rate: by its own `folded(factor)` if it has one; a tensor (B, K, T) is folded like x."""
    if hasattr(cond, "folded"):
        return cond.folded(factor)
    return fold(cond, factor) if isinstance(cond, Tensor) else cond


class Folded(Transform):
    """A transform at a coarser rate ("squeeze"): x (B, C, T) is folded, mapped as (B, factor * C, T / factor), unfolded.

    A coarse log_det belongs to `factor` samples together; it is spread evenly over them, so its sum is exact.
    A multi-scale flow is this, recursively: `Folded(Chain([*steps, Partial(Folded(...), channels)]), 2)`.

    Args:
        transform: Of factor * C channels.
        factor: Samples per coarse time step.
    """

    def __init__(self, transform: Transform, factor: int) -> None:
        super().__init__()
        at_least(1, factor=factor)
        self.transform = transform
        self.factor = factor

    def context_of(self, direction: str) -> tuple[float, float]:
        """Returns that of the coarse transform in samples, and the rest of a fold, whose samples all see each other."""
        before, after = self.transform.context_of(direction)
        return before * self.factor + self.factor - 1, after * self.factor + self.factor - 1

    def initialize(self, x: Tensor, cond: Any = None) -> None:
        """Passes on the folded data."""
        self.transform.initialize(fold(x, self.factor), fold_cond(cond, self.factor))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns z (B, C, T) and log |dz/dx| (B, T), the same for all samples of a coarse time step."""
        return self._unfold(*self.transform(fold(x, self.factor), fold_cond(cond, self.factor)))

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns x (B, C, T) and log |dx/dz| (B, T), the same for all samples of a coarse time step."""
        return self._unfold(*self.transform.inverse(fold(z, self.factor), fold_cond(cond, self.factor)))

    def _unfold(self, y: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        return unfold(y, self.factor), (log_det / self.factor).repeat_interleave(self.factor, dim=1)


class Partial(Transform):
    """A transform of the first channels only; the others pass unchanged, and the base density scores them directly.

    This "factors out" channels between the scales of a flow (Real NVP, section 3.6; the early outputs of WaveGlow).

    Args:
        transform: Of the first channels.
        channels: How many these are.
    """

    def __init__(self, transform: Transform, channels: int) -> None:
        super().__init__()
        at_least(1, channels=channels)
        self.transform = transform
        self.channels = channels

    def context_of(self, direction: str) -> tuple[float, float]:
        return self.transform.context_of(direction)

    def initialize(self, x: Tensor, cond: Any = None) -> None:
        """Passes on the first channels."""
        self.transform.initialize(self._split(x)[0], cond)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        first, others = self._split(x)
        first, log_det = self.transform(first, cond)
        return torch.cat([first, others], dim=1), log_det

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        first, others = self._split(z)
        first, log_det = self.transform.inverse(first, cond)
        return torch.cat([first, others], dim=1), log_det

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] < self.channels:
            raise ValueError(f"`x` must have at least {self.channels} channels, got {x.shape[1]}.")
        return x[:, : self.channels], x[:, self.channels :]


class Grouped(Transform):
    """One transform for all groups of 4 channels; a group is two neighbors of the first half and the same two of the second.

    A mixing then has the weights of 4 channels, whatever C is, and still mixes the two halves of a `Coupling`.

    Args:
        transform: Of 4 channels, each time step by itself.

    References:
        Glow-TTS (Kim et al., 2020), appendix A.1, https://arxiv.org/abs/2005.11129
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._each(self.transform.forward, x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._each(self.transform.inverse, z)

    def _each(self, function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] % 4:
            raise ValueError(f"`x` must have a multiple of 4 channels to be grouped, got {x.shape[1]}: fold it first.")
        groups = x.unflatten(1, (2, -1, 2)).transpose(1, 2)  # (B, C / 4, 2, 2, T)
        y, log_det = function(groups.flatten(0, 1).flatten(1, 2))
        y = y.unflatten(0, groups.shape[:2]).unflatten(2, (2, 2)).transpose(1, 2).reshape(x.shape)
        return y, log_det.unflatten(0, groups.shape[:2]).sum(dim=1)
