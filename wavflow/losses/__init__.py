"""Losses of distillation."""

from wavflow.losses.distillation import ContrastiveDivergence, DensityDistillation, Divergence
from wavflow.losses.spectral import MagnitudeLoss, MultiResolutionSTFTLoss, PowerLoss

__all__ = [
    "ContrastiveDivergence",
    "DensityDistillation",
    "Divergence",
    "MagnitudeLoss",
    "MultiResolutionSTFTLoss",
    "PowerLoss",
]
