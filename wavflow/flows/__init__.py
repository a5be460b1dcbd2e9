"""Flows: invertible maps with exact densities."""

from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Flow, Inverse, Transform
from wavflow.flows.elementwise import Affine, Bijection, Inverted, MixtureCDF, Shift
from wavflow.flows.linear_prediction import LinearPrediction
from wavflow.flows.pitch_prediction import MelPitch, PitchPrediction
from wavflow.flows.solver import NotConvergedError, Solution, fixed_point
from wavflow.flows.whitening import Whitening

__all__ = [
    "Affine",
    "Autoregressive",
    "Bijection",
    "Chain",
    "Flow",
    "Inverse",
    "Inverted",
    "LinearPrediction",
    "MelPitch",
    "MixtureCDF",
    "NotConvergedError",
    "PitchPrediction",
    "Shift",
    "Solution",
    "Transform",
    "Whitening",
    "fixed_point",
]
