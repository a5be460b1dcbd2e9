"""Quantities that a training step logs."""

from __future__ import annotations

import math

from torch import Tensor

from wavflow.flows.elementwise import LOG_SCALE_BOUND


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of values (B, T) where mask (B, T) is 1."""
    return (values * mask).sum() / mask.sum().clamp_min(1.0)


def clamp_fraction(log_slope: Tensor, mask: Tensor) -> Tensor:
    """Returns the share of samples whose log-slope (B, T) is at the bound of log-scales, where gradients fade."""
    return masked_mean((log_slope.detach().abs() > 0.95 * LOG_SCALE_BOUND).to(mask.dtype), mask)


def largest(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the largest size of values (B, T) where mask (B, T) is 1; nan if there is one among them."""
    return (values.detach().abs() * mask).max()


def rms(audio: Tensor) -> Tensor:
    """Returns the root mean square of audio of any shape."""
    return audio.square().mean().sqrt()


def interval(values: Tensor) -> Tensor:
    """Returns the half width of the 95 % interval of the mean of values (N,), by the normal approximation; nan for one."""
    return 1.96 * values.std() / math.sqrt(len(values)) if len(values) > 1 else values.new_tensor(math.nan).squeeze()
