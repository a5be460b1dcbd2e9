"""Flows: invertible maps with exact densities."""

from wavflow.flows.autoregressive import Autoregressive, MaskedAutoregressive
from wavflow.flows.base import Chain, Flow, Inverse, Transform
from wavflow.flows.coupling import Coupling
from wavflow.flows.elementwise import Affine, Bijection, Inverted, MixtureCDF, Shift
from wavflow.flows.gaussianization import Gaussianization
from wavflow.flows.harmonic_source import HarmonicSource
from wavflow.flows.linear import Householder, InvertibleLinear, Permutation, Reverse
from wavflow.flows.linear_prediction import LinearPrediction
from wavflow.flows.mintnet import MintLayer
from wavflow.flows.pitch_prediction import MelPitch, PitchPrediction
from wavflow.flows.reshape import Folded, Partial
from wavflow.flows.solver import NotConvergedError, Solution, fixed_point
from wavflow.flows.static import ActNorm, Static
from wavflow.flows.triangular import TriangularAffine
from wavflow.flows.whitening import Whitening

__all__ = [
    "ActNorm",
    "Affine",
    "Autoregressive",
    "Bijection",
    "Chain",
    "Coupling",
    "Flow",
    "Folded",
    "Gaussianization",
    "HarmonicSource",
    "Householder",
    "Inverse",
    "Inverted",
    "InvertibleLinear",
    "LinearPrediction",
    "MaskedAutoregressive",
    "MelPitch",
    "MintLayer",
    "MixtureCDF",
    "NotConvergedError",
    "Partial",
    "Permutation",
    "PitchPrediction",
    "Reverse",
    "Shift",
    "Solution",
    "Static",
    "Transform",
    "TriangularAffine",
    "Whitening",
    "fixed_point",
]
