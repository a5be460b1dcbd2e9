"""The lag of a clip: exact where the waveform is kept, near where only the spectrum is, 0 where nothing tells."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import refused
from sounds import SAMPLE_RATE, needs, noise, speech, with_noise
from torch import Tensor

from wavflow.evaluation import align, estimate_lag, griffin_lim, random_phase, world
from wavflow.flows import Whitening
from wavflow.mel import MelSpectrogram


def late(audio: Tensor, lag: int) -> Tensor:
    return torch.cat([torch.zeros(lag), audio]) if lag >= 0 else audio[-lag:]


def whisper(mel: Tensor, module: MelSpectrogram) -> Tensor:
    """White noise through the mel's envelope."""
    noise = torch.randn(1, 1, mel.shape[1] * module.hop_length)
    return Whitening(module, pitch=False).inverse(noise, mel[None])[0][0, 0]


@pytest.mark.parametrize("lag", [0, 1, 64, -64, 1105, -2000])
def test_the_lag_of_a_kept_waveform_is_exact(lag: int) -> None:
    audio = speech(seconds=2.0)
    assert estimate_lag(late(audio, lag), audio, SAMPLE_RATE) == lag
    assert estimate_lag(late(-0.1 * with_noise(audio, 20), lag).numpy(), audio.numpy(), SAMPLE_RATE) == lag


@pytest.mark.parametrize("vocoder", [griffin_lim, random_phase, whisper])
@pytest.mark.parametrize("number", [1, 9])
def test_the_lag_of_new_phases_is_near(vocoder: Callable[[Tensor, MelSpectrogram], Tensor], number: int) -> None:
    module = MelSpectrogram()
    audio = speech(number)[: 250 * 256]
    generated = vocoder(module(audio[None])[0], module)
    assert estimate_lag(generated, audio, SAMPLE_RATE) == 0
    for lag in (100, -300, 1000):
        assert estimate_lag(late(generated, lag), audio, SAMPLE_RATE) == pytest.approx(lag, abs=44)


@needs("pyworld")
def test_the_lag_of_world_is_near() -> None:
    audio = speech()
    copy = world(audio, SAMPLE_RATE).double()
    assert estimate_lag(copy, audio, SAMPLE_RATE) == 0, "it is late by 1 to 2 ms: too little to be sure"
    assert estimate_lag(late(copy, 300), audio, SAMPLE_RATE) == pytest.approx(325, abs=30)


def test_what_does_not_belong_together_has_no_lag() -> None:
    audio = speech(1)
    for other in (speech(2), noise(len(audio)), torch.zeros(len(audio)), late(audio, 3000), audio[:1], audio[:5]):
        assert estimate_lag(other, audio, SAMPLE_RATE) == 0
    assert estimate_lag(late(audio, 3000), audio, SAMPLE_RATE, max_seconds=0.2) == 3000
    assert estimate_lag(late(audio, 3), audio, SAMPLE_RATE, max_seconds=0.0) == 0


def test_unfit_clips_are_refused() -> None:
    refused(lambda: estimate_lag(torch.tensor([math.nan]), noise(9), SAMPLE_RATE), "`generated` must be finite")
    refused(lambda: estimate_lag(noise(9), noise(9), SAMPLE_RATE, max_seconds=-1), "`max_seconds` must be at least 0, got -1")


@pytest.mark.parametrize(("lag", "shared"), [(0, 900), (64, 936), (200, 800), (-64, 936), (-200, 800)])
def test_aligned_clips_share_what_they_can(lag: int, shared: int) -> None:
    audio = noise(1000)
    generated = late(audio, lag)[: 1000 if lag else 900]
    ours, theirs = align(generated, audio, lag)
    assert (ours == theirs).all()
    assert len(ours) == shared
    refused(lambda: align(audio, audio, 1000), "`lag` must leave samples that the clips share, got 1000")
