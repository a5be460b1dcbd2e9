"""Distances of two clips and code lengths against independent calculations, and the mean over clips."""

import io
import math
from functools import partial

import auraloss
import librosa
import numpy as np
import pytest
import soundfile
import torch
from helpers import refused
from sounds import SAMPLE_RATE, hum, noise, speech, with_noise
from torch import Tensor

from wavflow.evaluation import (
    bits_per_sample,
    flac_bits,
    judging_mel,
    level_db,
    log_spectral_distance,
    m_stft,
    mean_interval,
    mel_l1,
)
from wavflow.evaluation.comparison import METRICS, Pair
from wavflow.mel import MelSpectrogram

SIZES = {"fft_sizes": [1024, 2048, 512], "hop_sizes": [120, 240, 50], "win_lengths": [600, 1200, 240]}


def test_bits_of_a_uniform_density_are_the_bits_of_the_grid() -> None:
    assert bits_per_sample(-math.log(2)) == pytest.approx(16)  # density 1/2 on [-1, 1): 2^16 equally likely values
    torch.testing.assert_close(bits_per_sample(torch.tensor([4.31, 5.101])), torch.tensor([8.782, 7.641]), atol=5e-4, rtol=0)


def test_flac_bits_is_the_frames_of_the_best_file() -> None:
    audio = (noise(20000) * 32768).round().to(torch.int16)
    lengths = []
    for level in (0.0, 1.0):
        soundfile.write(file := io.BytesIO(), audio.numpy(), 22050, "PCM_16", format="FLAC", compression_level=level)
        lengths.append(8 * len(file.getvalue()) / len(audio))
    bits = flac_bits(audio, 22050)
    assert bits < lengths[1] <= lengths[0]
    assert 8 * 42 / len(audio) <= lengths[1] - bits <= 8 * 200 / len(audio), "42 bytes of header at the least"
    entropy = 0.5 * math.log2(2 * math.pi * math.e * (0.1 * 32768) ** 2)
    assert entropy - 0.02 < bits < entropy + 0.2


def test_flac_bits_sees_through_dequantization() -> None:
    audio = (noise() * 32768).round().to(torch.int16)
    on_grid = audio / 32768
    dequantized = on_grid + (torch.rand(len(audio)) - 0.5) / 32768
    assert flac_bits(audio, 16000) == flac_bits(on_grid, 16000) == flac_bits(dequantized.numpy(), 16000)
    assert flac_bits(torch.tensor([-1.0, 1.0]), 16000) > 0  # both ends of the grid, and a clip of two samples


def test_level() -> None:
    audio, silence = noise(), torch.zeros(10)
    assert level_db(10 ** (1 / 20) * audio, audio.numpy()) == pytest.approx(1)
    assert level_db(0.1 * audio[:1], audio[:1]) == pytest.approx(-20)
    assert level_db(silence, audio) == -math.inf
    assert math.isnan(level_db(audio, silence))
    assert math.isnan(level_db(silence, silence))


def test_log_spectral_distance_agrees_with_librosa() -> None:
    generated, reference = noise(), 0.3 * noise()
    reference[3000:5000] = 0  # meets the floor

    def level(audio: Tensor) -> np.ndarray:
        spectrum = librosa.stft(audio.numpy(), n_fft=1024, hop_length=256, pad_mode="constant")
        return np.maximum(20 * np.log10(np.maximum(np.abs(spectrum) / 256, 1e-99)), -100)  # a full-scale sine gives 256

    expected = np.sqrt(((level(generated) - level(reference)) ** 2).mean(axis=0)).mean()
    assert log_spectral_distance(generated, reference) == pytest.approx(expected, rel=1e-10)


def test_log_spectral_distance_of_known_changes() -> None:
    audio = noise()
    assert log_spectral_distance(audio, audio.clone()) == 0
    assert log_spectral_distance(2 * audio, audio) == pytest.approx(20 * math.log10(2), rel=1e-6)
    assert log_spectral_distance(1e-6 * audio, torch.zeros_like(audio)) == 0, "both below the floor"


def test_m_stft_agrees_with_auraloss() -> None:
    oracle = auraloss.freq.MultiResolutionSTFTLoss(**SIZES)  # its eps of 1e-8 replaces powers below it, ours adds to all
    for generated, reference, tolerance in [
        (noise(), hum(8000, SAMPLE_RATE) + 0.3 * noise(), 1e-4),
        (with_noise(speech(), 20), speech(), 1e-2),
    ]:
        expected = oracle(generated[None, None], reference[None, None]).item()
        assert m_stft(generated, reference, SAMPLE_RATE) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("sample_rate", "f_max"), [(22050, 8000.0), (16000, 3000.0), (16000, 8000.0), (8000, 8000.0)])
def test_m_stft_of_a_band_leaves_out_the_bins_above(sample_rate: int, f_max: float) -> None:
    generated, reference = noise(), 0.5 * noise()
    terms = []
    for n_fft, hop_length, win_length in zip(*SIZES.values(), strict=True):
        found, wanted = (
            np.abs(librosa.stft(clip.numpy(), n_fft=n_fft, hop_length=hop_length, win_length=win_length, pad_mode="reflect"))[
                np.arange(n_fft // 2 + 1) * sample_rate / n_fft <= f_max
            ]
            for clip in (generated, reference)
        )
        terms.append(np.linalg.norm(wanted - found) / np.linalg.norm(wanted) + np.abs(np.log(wanted / found)).mean())
    assert m_stft(generated, reference, sample_rate, f_max) == pytest.approx(np.mean(terms), rel=1e-4)
    refused(lambda: m_stft(generated, reference, sample_rate, 0.0), "`band` must be above 0")


def test_mel_l1_agrees_with_librosa() -> None:
    generated, reference = with_noise(speech(), 20), speech()
    for f_max, edge in ((None, 11025.0), (8000.0, 8000.0)):

        def log_mel(audio: Tensor, edge: float = edge) -> np.ndarray:
            padded = np.pad(audio.numpy(), 384, mode="reflect")
            mel = librosa.feature.melspectrogram(
                y=padded, sr=22050, n_fft=1024, hop_length=256, n_mels=80, fmax=edge, power=1.0, center=False
            )
            return np.log(np.maximum(mel, 1e-5))

        expected = np.abs(log_mel(generated) - log_mel(reference)).mean()
        assert mel_l1(generated, reference, judging_mel(22050, f_max)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000, 44100, 48000])
def test_the_judging_mel_covers_the_band_at_any_rate(sample_rate: int) -> None:
    full, narrow = judging_mel(sample_rate), judging_mel(sample_rate, 8000.0)
    assert full is judging_mel(sample_rate)
    assert (full.f_max, narrow.f_max) == (sample_rate / 2, min(8000.0, sample_rate / 2))
    assert 0.03 < full.n_fft / sample_rate < 0.07
    assert (full.n_mels, full.hop_length * 4, full.win_length) == (80, full.n_fft, full.n_fft)


def figures(generated: Tensor, reference: Tensor) -> dict[str, float]:
    pair = Pair((generated, reference), SAMPLE_RATE, lambda tracker: [])
    return {name: METRICS[name].measure(pair) for name in ("level dB", "LSD dB", "M-STFT", "M-STFT 8k", "mel L1", "mel L1 8k")}


def test_known_distortions_give_known_moves() -> None:
    audio = speech()
    assert set(figures(audio.clone(), audio).values()) == {0.0}
    nats = math.log(10) / 20  # 1 dB
    louder = figures(10 ** (1 / 20) * audio, audio)
    assert louder["level dB"] == pytest.approx(1)
    assert 0.7 < louder["LSD dB"] <= 1.0, "1 dB, but for what lies below the floor: the recording has nothing above 8 kHz"
    assert figures(audio, 10 ** (1 / 20) * audio)["M-STFT 8k"] < 0.97 * louder["M-STFT 8k"], "the reference is the yardstick"
    assert louder["M-STFT 8k"] == pytest.approx(math.expm1(nats) + nats, rel=0.05)
    assert 0.18 < louder["M-STFT"] < louder["M-STFT 8k"]
    assert louder["mel L1 8k"] == pytest.approx(nats, rel=0.02)
    assert 0.09 < louder["mel L1"] < louder["mel L1 8k"]
    late = figures(audio.roll(64), audio)
    assert late["level dB"] == pytest.approx(0)
    assert 0.4 < late["M-STFT 8k"] < 0.65, "2.9 ms late, and worse than many a vocoder"
    assert 0.05 < late["mel L1"] < 0.3
    noisy = figures(with_noise(audio, 20), audio)
    assert noisy["level dB"] == pytest.approx(10 * math.log10(1.01), abs=0.02)
    assert noisy["LSD dB"] > 5
    assert noisy["M-STFT"] > 1.5
    assert noisy["M-STFT"] > noisy["M-STFT 8k"], "white noise stands out most where speech has least"
    assert noisy["mel L1"] > noisy["mel L1 8k"] > 0.5


def test_silence_and_single_samples() -> None:
    silence, audio, one = torch.zeros(4000), noise(4000), torch.tensor([0.1])
    assert math.isnan(m_stft(audio, silence, SAMPLE_RATE))
    assert m_stft(silence, audio, SAMPLE_RATE) > 5
    assert m_stft(one, one, SAMPLE_RATE) == log_spectral_distance(one, one) == 0
    assert math.isnan(mel_l1(one, one, judging_mel(SAMPLE_RATE)))


def test_mean_interval() -> None:
    interval = mean_interval([1.0, math.nan, torch.tensor(2.0), -math.inf, 3.0])
    assert interval == (2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6), 3)  # t of 2 degrees of freedom: a table
    assert mean_interval([5])[::2] == (5.0, 1)
    assert math.isnan(mean_interval([5]).half_width)
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([math.nan]).n == 0


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, 9), r"must be one clip \(T,\).*\(1, 9\)"),
        (torch.zeros(0), "T >= 1"),
        (torch.zeros(9, dtype=torch.int32), "divide 16-bit integers by 32768"),
        (torch.tensor([0.0, math.nan]), "must be finite"),
    ],
)
def test_unfit_clips_are_refused(audio: Tensor, message: str) -> None:
    for figure, others in [
        (level_db, (noise(10),)),
        (log_spectral_distance, (noise(10),)),
        (flac_bits, (16000,)),
        (m_stft, (noise(10), 16000)),
        (mel_l1, (noise(10), MelSpectrogram())),
    ]:
        refused(partial(figure, audio, *others), message)


def test_unequal_lengths_and_overloads_are_refused() -> None:
    for figure, others in [(log_spectral_distance, ()), (mel_l1, (MelSpectrogram(),)), (m_stft, (16000,))]:
        refused(partial(figure, noise(3000), noise(2999), *others), "equally long, got 3000 and 2999 samples")
    refused(lambda: flac_bits(torch.tensor([1.5]), 16000), r"peak of 1\.5: scale it down")
