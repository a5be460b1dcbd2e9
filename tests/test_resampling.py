"""Resampling, against torchaudio: the same filter, computed by other means."""

import numpy as np
import pytest
import torch
import torchaudio.functional as F

from wavflow.resampling import ratio, resample, resampled_length, source_segment


@pytest.mark.parametrize(
    ("source", "target"), [(44100, 22050), (48000, 22050), (22050, 24000), (8000, 48000), (192000, 16000), (2999, 22050)]
)
def test_resampled_audio_is_torchaudios_to_24_bits(source: int, target: int) -> None:
    up, down = ratio(target, source)
    audio = np.random.default_rng(0).uniform(-1.0, 1.0, source // 2)

    resampled = resample(audio, up, down)

    options = {"lowpass_filter_width": 64, "rolloff": 0.9475937167399596, "beta": 14.769656459379492}
    expected = F.resample(torch.from_numpy(audio), down, up, resampling_method="sinc_interp_kaiser", **options)
    assert len(resampled) == resampled_length(len(audio), up, down)
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=2.0**-24)


@pytest.mark.parametrize(("source", "target"), [(44100, 22050), (22050, 44100), (48000, 22050), (16000, 24000)])
def test_a_segment_is_that_of_the_whole(source: int, target: int) -> None:
    up, down = ratio(target, source)
    audio = np.random.default_rng(0).uniform(-1.0, 1.0, source)
    whole = resample(audio, up, down)
    for first, last in [(0, 10), (1, 700), (5001, 6000), (target - 20, target)]:
        start, stop, skip = source_segment(first, last, up, down)
        segment = resample(audio[start:stop], up, down)[skip : skip + last - first]
        np.testing.assert_allclose(segment, whole[first:last], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("source", "target"), [(22050, 22051), (44100, 22051), (131077, 22050)])
def test_rates_without_a_common_divisor_are_met_nearly(source: int, target: int) -> None:
    up, down = ratio(target, source)
    assert max(up, down) <= 3000 * max(source, target) / min(source, target)
    assert up / down == pytest.approx(target / source, rel=1e-4)
