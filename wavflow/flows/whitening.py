"""The first map of every audio flow: takes out, exactly, what can be predicted of a sample from its past and the mel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wavflow.flows.base import Chain
from wavflow.flows.linear_prediction import LinearPrediction
from wavflow.flows.pitch_prediction import MelPitch, PitchPrediction
from wavflow.mel import MelSpectrogram


class Whitening(Chain):
    """Linear prediction by the envelope, then pitch prediction by the harmonics: `x -> u -> e`, without parameters.

    An untrained model on top of it is voiced speech of the right envelope and level, and its likelihood is better
    than a lossless codec's. Without a mel it is colored noise of a fixed spectrum.

    Args:
        mel: The convention of the conditioning mel.
        order: Of the linear prediction.
        pitch: Whether to predict by the pitch too, where the mel resolves it.

    Attributes:
        order: As given.
        pitch: Whether the pitch is used.
    """

    transforms: Sequence[Any]  # a `LinearPrediction`, then a `PitchPrediction` if the pitch is used

    def __init__(self, mel: MelSpectrogram, order: int = 32, pitch: bool = True) -> None:
        mel_pitch = MelPitch(mel) if pitch and MelPitch.resolves(mel) else None
        combs = [] if mel_pitch is None else [PitchPrediction(mel, mel_pitch)]
        super().__init__([LinearPrediction(mel, order, pitch=mel_pitch), *combs])
        self.order = order
        self.pitch = mel_pitch is not None
        self._past = order + (0 if mel_pitch is None else mel_pitch.longest_lag)

    def context_of(self, direction: str) -> tuple[float, float]:
        """Returns how far back the forward looks: the order and the comb's longest lag. The inverse is recursive."""
        return self._past if direction == "forward" else math.inf, 0
