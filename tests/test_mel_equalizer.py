"""Draws with the mel that was asked for: the map against its equations, its gradient, its streams, its edges."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import refused, tiny_mel
from sounds import hum, speech
from torch import Tensor
from torch.nn import functional

from wavflow import MelSpectrogram
from wavflow.mel_equalizer import MelEqualizer

HIFI = MelSpectrogram()
CENTERED = MelSpectrogram(center=True)
NARROW = MelSpectrogram(sample_rate=16000, n_fft=1024, hop_length=200, win_length=800, f_max=7600.0)
ODD = tiny_mel(n_fft=66, hop_length=15, win_length=50)
CONVENTIONS = pytest.mark.parametrize("mel", [HIFI, CENTERED, NARROW, ODD], ids=["hifi", "centered", "narrow", "odd"])


def pair(mel: MelSpectrogram, frames: int = 12, batch: int = 2) -> tuple[Tensor, Tensor]:
    """White noise (B, T) and the mel of another sound."""
    samples = frames * mel.hop_length
    target = hum(samples, mel.sample_rate).expand(batch, -1) * torch.linspace(0.1, 1.0, batch).unsqueeze(1)
    return 0.1 * torch.randn(batch, samples), mel(target + 0.003 * torch.randn(batch, samples))


def one_pass(audio: np.ndarray, log_mel: np.ndarray, mel: MelSpectrogram, factor: float = 1.0) -> np.ndarray:
    """The equations of the class for one item (T,), frame by frame, in numpy."""
    n, hop, (left, right) = mel.n_fft, mel.hop_length, mel.padding
    filterbank = mel.filterbank.double().numpy()
    bins = np.arange(n // 2 + 1)
    centers = (filterbank * bins).sum(1) / filterbank.sum(1)
    i = np.arange(mel.win_length)
    window = np.zeros(n)
    start = (n - mel.win_length) // 2
    window[start : start + mel.win_length] = 0.5 - 0.5 * np.cos(2 * np.pi * i / mel.win_length)
    padded = np.pad(audio, (left, right), mode="reflect")
    total, weight = np.zeros_like(padded), np.zeros_like(padded)
    for f in range(log_mel.shape[1]):
        part = slice(f * hop, f * hop + n)
        spectrum = np.fft.rfft(padded[part] * window)
        bands = filterbank @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9)
        d = np.clip(factor * (log_mel[:, f] - np.log(np.maximum(bands, 1e-5))), -4.0, 4.0)
        gain = np.where(bins * mel.sample_rate <= mel.f_max * n, np.interp(bins, centers, d), 0.0)
        total[part] += np.fft.irfft(spectrum * np.exp(gain), n) * window
        weight[part] += window**2
    inside = slice(left, left + len(audio))
    return total[inside] / weight[inside]


@pytest.mark.parametrize("factors", [[1.0], [1.9, 1.0], [1.9, 1.9, 1.0]])
@CONVENTIONS
def test_passes_are_those_of_the_equations(factors: list[float], mel: MelSpectrogram) -> None:
    audio, log_mel = pair(mel)
    equalized = MelEqualizer(mel)(audio, log_mel, len(factors))
    for got, before, target in zip(equalized, audio, log_mel, strict=True):
        expected = before.numpy()
        for factor in factors:
            expected = one_pass(expected, target.numpy(), mel, factor)
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=0, atol=2e-6)  # the filterbank is float32
    assert (equalized - audio).abs().max() > 0.01


@CONVENTIONS
def test_each_pass_brings_the_mel_nearer(mel: MelSpectrogram) -> None:
    audio, log_mel = pair(mel, frames=30)
    equalizer = MelEqualizer(mel)
    off = [(mel(equalizer(audio, log_mel, passes)) - log_mel).abs().mean() for passes in range(5)]
    assert all(after < 0.95 * before for before, after in itertools.pairwise(off))
    assert off[2] < 0.4 * off[0]
    assert torch.equal(equalizer(audio, log_mel, 0), audio)


@CONVENTIONS
def test_many_passes_converge(mel: MelSpectrogram) -> None:
    audio, log_mel = pair(mel, frames=30)
    equalizer = MelEqualizer(mel)
    few, many = ((mel(equalizer(audio, log_mel, passes)) - log_mel).abs().mean() for passes in (8, 40))
    assert many < 0.7 * few


def test_audio_of_the_given_mel_stays_as_it_is() -> None:
    audio = speech(seconds=1.0).unsqueeze(0)[:, : 80 * 256]
    torch.testing.assert_close(MelEqualizer(HIFI)(audio, HIFI(audio), 2), audio, rtol=0, atol=1e-6)


def test_above_f_max_the_draw_is_left_alone() -> None:
    mel = MelSpectrogram(f_max=4000.0)
    audio, log_mel = pair(mel, frames=40)
    before, after = (torch.fft.rfft(x[:, 1024:-1024]) for x in (audio, MelEqualizer(mel)(audio, log_mel)))
    hertz = torch.linspace(0, mel.sample_rate / 2, before.shape[-1])
    above, below = hertz > 4300.0, hertz < 3700.0
    assert (after - before)[:, above].abs().mean() < 0.02 * before[:, above].abs().mean()
    assert (after - before)[:, below].abs().mean() > 0.2 * before[:, below].abs().mean()


def test_gradients_are_those_of_finite_differences() -> None:
    mel = tiny_mel(n_fft=16, hop_length=4, win_length=16, n_mels=3, f_max=3000.0)
    equalizer, log_mel = MelEqualizer(mel), torch.randn(1, 3, 4) - 1.0
    audio = 0.3 * torch.randn(1, 16, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: equalizer(x, log_mel, 2), audio)


@CONVENTIONS
def test_compiled_passes_are_those_of_torch(mel: MelSpectrogram) -> None:
    audio, log_mel = pair(mel, frames=23)
    exact, compiled = MelEqualizer(mel)(audio, log_mel, 2), MelEqualizer(mel)(audio.float(), log_mel.float(), 2)
    assert compiled.dtype == torch.float32
    torch.testing.assert_close(compiled.double(), exact, rtol=0, atol=1e-4 * float(exact.abs().max()))


@CONVENTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("passes", [0, 1, 2, 3])
def test_a_stream_is_the_whole_to_the_last_bit(passes: int, dtype: torch.dtype, mel: MelSpectrogram) -> None:
    audio, log_mel = (x.to(dtype) for x in pair(mel, frames=23))
    equalizer = MelEqualizer(mel)
    whole = equalizer(audio, log_mel, passes)
    for sizes in ([1] * 23, [2] * 11 + [1], [9, 0, 14], [23], [1, 22], [0, 23, 0]):
        stream = equalizer.stream(passes)
        chunks = list(zip(audio.split([n * mel.hop_length for n in sizes], 1), log_mel.split(sizes, 2), strict=True))
        pieces = [stream.push(*chunk, last=i == len(chunks) - 1) for i, chunk in enumerate(chunks)]
        assert all(piece.shape[-1] % mel.hop_length == 0 for piece in pieces)
        assert torch.equal(torch.cat(pieces, dim=-1), whole)


def test_the_mel_may_come_before_its_audio() -> None:
    audio, log_mel = pair(HIFI, frames=9)
    stream = MelEqualizer(HIFI).stream(2)
    pieces = [stream.push(audio[:, :0], log_mel)]
    pieces += [stream.push(part, log_mel[..., :0]) for part in audio.split(256, dim=1)]
    pieces += [stream.push(audio[:, :0], log_mel[..., :0], last=True)]
    assert torch.equal(torch.cat(pieces, dim=-1), MelEqualizer(HIFI)(audio, log_mel, 2))


@CONVENTIONS
@pytest.mark.parametrize("passes", [1, 2])
def test_look_ahead_is_as_stated(passes: int, mel: MelSpectrogram) -> None:
    audio, log_mel = pair(mel, frames=30, batch=1)
    equalizer, end = MelEqualizer(mel), 10 * mel.hop_length
    before = equalizer(audio, log_mel, passes)[:, :end]
    for more, changes in ((0, False), (-passes * (mel.hop_length + mel.n_fft - mel.win_length), True)):
        other = audio.clone()
        other[:, end + equalizer.look_ahead(passes) + more :] *= 1.5
        assert torch.equal(equalizer(other, log_mel, passes)[:, :end], before) != changes
    needed, stream, ready = -(-(end + equalizer.look_ahead(passes)) // mel.hop_length), equalizer.stream(passes), 0
    for count, part in enumerate(audio[:, : 29 * mel.hop_length].split(mel.hop_length, dim=1), start=1):
        ready += stream.push(part, log_mel[..., count - 1 : count]).shape[-1]
        assert (ready >= end) == (count >= needed)


@CONVENTIONS
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_short_audio(frames: int, mel: MelSpectrogram) -> None:
    audio, log_mel = pair(mel, frames)
    equalized = MelEqualizer(mel)(audio, log_mel, 2)
    assert equalized.shape == audio.shape
    assert (mel(equalized) - log_mel).abs().mean() < 0.7 * (mel(audio) - log_mel).abs().mean()


@pytest.mark.parametrize("level", [-11.6, -300.0, 5.0, 300.0])
@pytest.mark.parametrize("make", [torch.zeros_like, torch.randn_like])
def test_silence_and_mels_of_no_sound_stay_finite(make: Callable[[Tensor], Tensor], level: float) -> None:
    audio = make(torch.empty(1, 20 * 256)).requires_grad_()
    equalized = MelEqualizer(HIFI)(audio, torch.full((1, 80, 20), level), 3)
    equalized.square().sum().backward()
    assert torch.isfinite(equalized).all()
    assert torch.isfinite(audio.grad).all()
    assert equalized.abs().max() <= 1.01 * np.exp(12.0) * audio.abs().max()


def test_silence_stays_silent() -> None:
    audio = 1e-5 * torch.randn(1, 40 * 256)
    equalized = MelEqualizer(HIFI)(audio, torch.full((1, 80, 40), float(np.log(1e-5))), 2)
    assert equalized.std() < 1.05 * audio.std()


def test_a_mel_without_bands_tells_nothing() -> None:
    mel = tiny_mel(n_mels=0)
    audio = torch.randn(1, 5 * mel.hop_length)
    assert torch.equal(MelEqualizer(mel)(audio, mel(audio), 2), audio)
    assert MelEqualizer(mel).look_ahead(2) == 0


def test_wrong_input_is_refused() -> None:
    audio, log_mel = pair(ODD, frames=4)
    refused(lambda: MelEqualizer(ODD)(functional.pad(audio, (0, 1)), log_mel), r"`audio` must be \(B, 60\)")
    refused(lambda: MelEqualizer(ODD)(audio, log_mel, -1), "`passes` must be at least 0, got -1")
