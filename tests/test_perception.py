"""ESTOI and PESQ: the libraries' own values, known moves, and clips that have none."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import refused
from scipy.signal import resample_poly
from sounds import SAMPLE_RATE, needs, noise, speech, with_noise
from torch import Tensor

from wavflow.evaluation import MissingLibraryError, dio_track, estoi, pesq_wb, world

BOTH = [pytest.param(estoi, marks=needs("pystoi")), pytest.param(pesq_wb, marks=needs("pesq"))]


@needs("pystoi")
def test_estoi_is_pystois() -> None:
    from pystoi import stoi

    clean, noisy = speech(), with_noise(speech(), 5)
    ours = estoi(noisy, clean, SAMPLE_RATE)
    assert ours == pytest.approx(stoi(clean.numpy(), noisy.numpy(), SAMPLE_RATE, extended=True), abs=1e-9)
    resampled = (resample_poly(clip.numpy(), 200, 441) for clip in (clean, noisy))
    assert ours == pytest.approx(stoi(*resampled, 10000, extended=True), abs=0.01)
    assert ours != pytest.approx(estoi(clean, noisy, SAMPLE_RATE), abs=1e-4), "the recording says which frames are silent"


@needs("pesq")
def test_pesq_is_the_librarys() -> None:
    from pesq import pesq

    clean, noisy = speech().numpy(), with_noise(speech(), 20).numpy()
    assert pesq_wb(noisy, clean, 16000) == pytest.approx(pesq(16000, clean, noisy, "wb"), abs=1e-6)
    resampled = (resample_poly(clip, 320, 441) for clip in (clean, noisy))
    assert pesq_wb(noisy, clean, SAMPLE_RATE) == pytest.approx(pesq(16000, *resampled, "wb"), abs=0.03)


@needs("pesq")
@needs("pystoi")
def test_known_distortions_give_known_moves() -> None:
    audio = speech()
    figures = {figure: lambda clip, figure=figure: figure(clip, audio, SAMPLE_RATE) for figure in (estoi, pesq_wb)}
    assert figures[estoi](audio) == pytest.approx(1.0)
    assert figures[pesq_wb](audio) == pytest.approx(4.644, abs=1e-3), "the scale ends there"
    louder = 10 ** (1 / 20) * audio
    assert figures[estoi](louder) == pytest.approx(1.0)
    assert figures[pesq_wb](louder) == pytest.approx(4.644, abs=1e-3), "PESQ levels both"
    assert 0.9 < figures[estoi](audio.roll(64)) < 1.0
    assert figures[pesq_wb](audio.roll(64)) > 4.5, "PESQ aligns both"
    good, bad = with_noise(audio, 20), with_noise(audio, 0)
    assert 0.8 < figures[estoi](good) < 0.99
    assert 1.1 < figures[pesq_wb](good) < 2.5
    assert figures[estoi](bad) < figures[estoi](good) - 0.2
    assert figures[pesq_wb](bad) < figures[pesq_wb](good)
    assert abs(figures[estoi](noise(len(audio)))) < 0.15


@pytest.mark.parametrize("figure", BOTH)
def test_clips_without_a_figure_have_nan(figure: Callable[..., float]) -> None:
    audio, silence = noise(SAMPLE_RATE), torch.zeros(SAMPLE_RATE)
    assert figure(audio, audio, SAMPLE_RATE) > 0.99
    for generated, reference in [(silence, audio), (audio, silence), (silence, silence), (audio[:1], audio[:1])]:
        assert math.isnan(figure(generated, reference, SAMPLE_RATE))
    assert math.isnan(figure(audio[:4000], audio[:4000], SAMPLE_RATE)), "too short"


@pytest.mark.parametrize("figure", BOTH)
def test_unfit_clips_are_refused(figure: Callable[..., float]) -> None:
    refused(lambda: figure(noise(9000), noise(8000), SAMPLE_RATE), "equally long, got 9000 and 8000 samples")
    refused(lambda: figure(torch.full((8000,), math.nan), noise(8000), SAMPLE_RATE), "`generated` must be finite")


@needs("pesq")
def test_pesq_of_a_long_clip_is_the_mean_over_its_pieces() -> None:
    """On 60 utterances in one call the library writes beyond its arrays and ends the process."""
    burst = torch.cat([noise(SAMPLE_RATE // 2), torch.zeros(SAMPLE_RATE // 2)])
    clean = burst.repeat(60)
    noisy = clean.clone()
    noisy[: 20 * SAMPLE_RATE] = with_noise(noisy[: 20 * SAMPLE_RATE], 10)
    first = pesq_wb(noisy[: 20 * SAMPLE_RATE], clean[: 20 * SAMPLE_RATE], SAMPLE_RATE)
    assert first < 4
    assert pesq_wb(noisy, clean, SAMPLE_RATE) == pytest.approx((first + 2 * 4.644) / 3, abs=0.05)


@pytest.mark.parametrize(
    ("library", "figure"),
    [
        ("pystoi", lambda clip: estoi(clip, clip, 16000)),
        ("pesq", lambda clip: pesq_wb(clip, clip, 16000)),
        ("pyworld", lambda clip: dio_track(clip, 16000)),
        ("pyworld", lambda clip: world(clip, 16000)),
    ],
)
def test_a_missing_library_is_named(library: str, figure: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError, match=rf"needs {library}, which is not installed: pip install 'wavflow\[eval\]'"):
        figure(noise(8000))


@needs("pyworld")
def test_a_library_that_lacks_its_own_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyworld", "pyworld.pyworld"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    with pytest.raises(MissingLibraryError, match=r"needs pyworld, which can't be imported here \(.*pkg_resources"):
        dio_track(np.zeros(8000), 16000)
