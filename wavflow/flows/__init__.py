"""Flows: invertible maps with exact densities."""

from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Flow, Inverse, Transform
from wavflow.flows.elementwise import Affine, Bijection, Inverted, MixtureCDF, Shift
from wavflow.flows.linear_prediction import LinearPrediction
from wavflow.flows.solver import NotConvergedError, Solution, fixed_point

__all__ = [
    "Affine",
    "Autoregressive",
    "Bijection",
    "Chain",
    "Flow",
    "Inverse",
    "Inverted",
    "LinearPrediction",
    "MixtureCDF",
    "NotConvergedError",
    "Shift",
    "Solution",
    "Transform",
    "fixed_point",
]
