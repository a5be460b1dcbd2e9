"""Pitch tracks of sounds whose pitch is known, and figures of tracks whose errors are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import refused
from sounds import SAMPLE_RATE, hum, needs, noise, speech, with_noise

from wavflow.evaluation import (
    dio_track,
    f0_rmse_cents,
    griffin_lim,
    gross_error_fraction,
    pyin_track,
    random_phase,
    voicing_f1,
)
from wavflow.mel import MelSpectrogram

TRACKERS = [pyin_track, pytest.param(dio_track, marks=needs("pyworld"))]


@pytest.mark.parametrize("track", TRACKERS)
@pytest.mark.parametrize("sample_rate", [16000, 22050, 48000])
def test_tracks_of_a_hum_between_noise(track: Callable[..., np.ndarray], sample_rate: int) -> None:
    half = sample_rate // 2
    audio = torch.cat([hum(half, sample_rate, 130.0), noise(half, 0.02)])

    hertz = track(audio, sample_rate)

    assert np.array_equal(track(audio.numpy(), sample_rate), hertz, equal_nan=True)
    frames = len(hertz)
    assert frames == (len(audio) // 256 if track is pyin_track else 200) + 1
    first, second = hertz[frames // 10 : frames * 4 // 10], hertz[frames * 6 // 10 : frames * 9 // 10]
    np.testing.assert_allclose(first, 130.0, rtol=0.01)
    assert np.isnan(second).mean() > 0.8


@pytest.mark.parametrize("track", TRACKERS)
def test_tracks_of_silence_and_single_samples(track: Callable[..., np.ndarray]) -> None:
    for audio in (torch.zeros(6000), noise(1), noise(500)):
        hertz = track(audio, SAMPLE_RATE)
        assert len(hertz) > 0
        assert np.isnan(hertz).all()
    refused(lambda: track(torch.full((6000,), math.nan), SAMPLE_RATE), "`audio` must be finite")


def test_figures_of_known_errors() -> None:
    wanted = 100 + 50 * np.random.default_rng(0).random(400)
    wanted[300:] = np.nan
    found = wanted * 2 ** (50 / 1200)
    found[:150] = wanted[:150] * 2 ** (-50 / 1200)
    assert f0_rmse_cents(found, wanted) == pytest.approx(50)
    assert gross_error_fraction(found, wanted) == 0
    assert voicing_f1(found, wanted) == 1

    found[100:130] *= 2  # octave errors: counted, and out of the RMSE
    assert f0_rmse_cents(found, wanted) == pytest.approx(50)
    assert gross_error_fraction(found, wanted) == pytest.approx(0.1)

    found[200:300] = np.nan  # 100 missed
    found[300:350] = 120.0  # 50 invented
    assert voicing_f1(found, wanted) == pytest.approx(2 * 200 / (250 + 300))
    assert gross_error_fraction(found, wanted) == pytest.approx(30 / 200), "of the frames voiced in both"


def test_the_longer_track_is_cut() -> None:
    track = np.array([100.0, np.nan, 100.0, 100.0])
    for figure, perfect in ((voicing_f1, 1.0), (f0_rmse_cents, 0.0), (gross_error_fraction, 0.0)):
        assert figure(track, track[:3]) == figure(track[:3], track) == perfect


def test_figures_of_nothing_voiced() -> None:
    unvoiced, voiced = np.full(9, np.nan), np.full(9, 100.0)

    assert math.isnan(voicing_f1(unvoiced, unvoiced))
    assert voicing_f1(unvoiced, voiced) == voicing_f1(voiced, unvoiced) == 0
    for figure in (f0_rmse_cents, gross_error_fraction):
        assert math.isnan(figure(unvoiced, voiced))
    assert math.isnan(f0_rmse_cents(4 * voiced, voiced)), "gross errors alone"
    assert gross_error_fraction(4 * voiced, voiced) == 1


def test_what_is_no_track_is_refused() -> None:
    for figure in (voicing_f1, f0_rmse_cents, gross_error_fraction):
        with pytest.raises(ValueError, match=r"`wanted` must be a track \(frames,\).*a least value of 0: take it"):
            figure(np.ones(2), np.zeros(2))
        with pytest.raises(ValueError, match=r"`found` must be a track .*got shape \(1, 2\)"):
            figure(np.ones((1, 2)), np.ones(2))


@needs("pyworld")
def test_dio_tells_phase_coherence_and_pyin_does_not() -> None:
    audio, mel = speech(seconds=3.0)[: 250 * 256], MelSpectrogram()
    log_mel = mel(audio[None])[0]
    sounds = [with_noise(audio, 20), griffin_lim(log_mel, mel), random_phase(log_mel, mel)]

    noisy, sought, drawn = (voicing_f1(dio_track(sound, SAMPLE_RATE), dio_track(audio, SAMPLE_RATE)) for sound in sounds)

    assert noisy > 0.9
    assert noisy > sought > drawn + 0.2
    assert drawn < 0.3
    assert voicing_f1(pyin_track(sounds[2], SAMPLE_RATE), pyin_track(audio, SAMPLE_RATE)) > drawn + 0.3
