"""The anchors: in their place, at their level, as near the recording as they should be."""

import math

import numpy as np
import pytest
import torch
from helpers import refused
from sounds import SAMPLE_RATE, hum, needs, noise, speech
from torch import Tensor

from wavflow.evaluation import dio_track, estimate_lag, griffin_lim, level_db, m_stft, mel_l1, random_phase, voicing_f1, world
from wavflow.evaluation.anchors import _linear_magnitude
from wavflow.mel import MelSpectrogram


def bursts() -> Tensor:
    """Noise that starts and stops, 40 frames of 256: it shows where things are in time."""
    audio = torch.zeros(40 * 256)
    for start in (700, 2900, 5100, 8300):
        audio[start : start + 400] = noise(400, level=0.2)
    return audio


def lag(generated: Tensor, reference: Tensor, reach: int = 600) -> int:
    """Samples by which the envelope of `generated` comes late, from the peak of the cross-correlation."""
    signals = torch.stack([generated, reference]).square().unsqueeze(1)
    envelope = torch.nn.functional.avg_pool1d(signals, 129, stride=1, padding=64)[:, 0]
    envelope = envelope - envelope.mean(dim=1, keepdim=True)
    late = [(envelope[0].roll(-shift) * envelope[1]).sum() for shift in range(-reach, reach + 1)]
    return int(torch.stack(late).argmax()) - reach


@pytest.mark.parametrize("anchor", [griffin_lim, random_phase])
@pytest.mark.parametrize("settings", [{}, {"center": True}, {"n_fft": 512, "win_length": 400, "hop_length": 100}])
def test_anchors_have_the_right_length_and_no_lag(anchor: object, settings: dict) -> None:
    audio = bursts()
    module = MelSpectrogram(**{"n_mels": 40, **settings})
    mel = module(audio[None])[0]
    generated = anchor(mel, module)
    assert lag(audio.roll(128), audio) == 128, "half a hop of misplaced frames would show"
    assert generated.shape == (mel.shape[1] * module.hop_length,)
    assert abs(lag(generated, audio[: len(generated)])) <= 40


def test_magnitudes_have_the_mel_that_they_come_from() -> None:
    module = MelSpectrogram()
    mel = module(speech(seconds=2.0)[None])[0]
    magnitude = torch.from_numpy(_linear_magnitude(mel, module)).double()
    assert (magnitude >= 0).all()
    assert magnitude[torch.arange(513) * 22050 / 1024 > 8000].max() < 1e-5, "the mel knows nothing of what lies above"
    assert ((module.filterbank.double() @ magnitude).clamp(min=1e-5).log() - mel).abs().mean() < 0.005


def test_griffin_lim_keeps_the_mel_and_random_phase_less_so() -> None:
    module = MelSpectrogram()
    audio = noise(30 * 256) + hum(30 * 256, 22050)
    mel = module(audio[None])[0].float()
    sought, drawn = griffin_lim(mel, module), random_phase(mel, module)
    assert sought.dtype == drawn.dtype == torch.float32
    assert mel_l1(sought, audio, module) < 0.25 < mel_l1(drawn, audio, module) < 1
    assert abs(level_db(sought, audio)) < 1.5


def test_anchors_can_be_repeated() -> None:
    module = MelSpectrogram(n_mels=20)
    mel = torch.randn(20, 6) - 4
    first, again, other = (random_phase(mel, module, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert (griffin_lim(mel, module, iterations=2) == griffin_lim(mel, module, iterations=2)).all()
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("anchor", [griffin_lim, random_phase])
def test_anchors_refuse_a_foreign_mel(anchor: object) -> None:
    refused(lambda: anchor(torch.zeros(79, 5), MelSpectrogram()), "`mel` must be")


@needs("pyworld")
@pytest.mark.parametrize("number", [1, 7])
def test_world_copies_speech(number: int) -> None:
    audio = speech(number, 2.0)[:-3]
    copy = world(audio, SAMPLE_RATE)
    assert copy.dtype == torch.float32
    assert copy.shape == audio.shape
    assert abs(level_db(copy, audio)) < 3
    assert m_stft(copy, audio, SAMPLE_RATE) < 1.3, "Griffin-Lim has 1.8"
    assert estimate_lag(copy, audio, SAMPLE_RATE) == 0, "or less than 2 ms"
    assert voicing_f1(dio_track(copy, SAMPLE_RATE), dio_track(audio, SAMPLE_RATE)) > 0.85
    correlation = np.corrcoef(copy.numpy(), audio.numpy())[0, 1]
    assert abs(correlation) < 0.8, "a new waveform, not the recording's"


@needs("pyworld")
@pytest.mark.parametrize("length", [1, 50, 5000])
def test_world_bears_silence_and_single_samples(length: int) -> None:
    assert world(torch.zeros(length), SAMPLE_RATE).abs().max() < 1e-6
    assert world(noise(length), SAMPLE_RATE).isfinite().all()
    refused(lambda: world(torch.full((length,), math.nan), SAMPLE_RATE), "`audio` must be finite")
