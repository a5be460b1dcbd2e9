"""Anchors to compare a model's metrics with.

`griffin_lim` and `random_phase` start from the mel alone, as a vocoder does. They take a log-mel (n_mels, F) and the module
that made it. They return (F * hop_length,), aligned with the audio that the mel came from. Any model must beat random phase.
Griffin-Lim beats published neural vocoders on mel distances, so "better than Griffin-Lim" on those proves little.
"""

import math

import librosa
import numpy as np
import torch
from torch import Tensor

from wavflow.clips import Audio, checked_clip, optional_library
from wavflow.mel import MelSpectrogram


def _linear_magnitude(mel: Tensor, mel_module: MelSpectrogram) -> np.ndarray:
    """Magnitude spectrogram (n_fft // 2 + 1, F), not negative, whose mel is the given one; 0 above `f_max`.

    Multiplicative updates from the pseudo-inverse: ten times as fast as librosa's `nnls` here, and nearer the mel.
    """
    mel_module.check(mel.unsqueeze(0))
    filterbank, wanted = mel_module.filterbank.detach().cpu().float(), mel.detach().cpu().float().exp()
    magnitude = (torch.linalg.pinv(filterbank) @ wanted).clamp(min=0) + 1e-6
    for _ in range(30):
        magnitude *= (filterbank.T @ wanted) / (filterbank.T @ (filterbank @ magnitude)).clamp(min=1e-12)
    return magnitude.numpy()


def _cut(padded: np.ndarray, mel: Tensor, mel_module: MelSpectrogram) -> Tensor:
    """Cuts the F * hop_length samples that the frames stand for out of their overlap-add.

    The first frame begins before the audio does:

        padded |<-- n_fft // 2 - frame_center -->| audio, F * hop_length |
        frame 0 |<------------- n_fft ----------------->|

    so that frame f stays centered on sample f * hop_length + frame_center and the lag is 0.
    """
    length = mel.shape[-1] * mel_module.hop_length
    audio = padded[mel_module.n_fft // 2 - int(mel_module.frame_center) :]
    return torch.from_numpy(librosa.util.fix_length(audio, size=length)).to(mel)


def griffin_lim(mel: Tensor, mel_module: MelSpectrogram, iterations: int = 32) -> Tensor:
    """Audio whose phase is found by `iterations` of fast Griffin-Lim, from a fixed random start.

    References:
        Perraudin et al., 2013, "A fast Griffin-Lim algorithm"
    """
    padded = librosa.griffinlim(
        _linear_magnitude(mel, mel_module),
        n_iter=iterations,
        hop_length=mel_module.hop_length,
        win_length=mel_module.win_length,
        n_fft=mel_module.n_fft,
        center=False,
        random_state=0,
    )
    return _cut(padded, mel, mel_module)


def random_phase(mel: Tensor, mel_module: MelSpectrogram, generator: torch.Generator | None = None) -> Tensor:
    """Audio with the mel's magnitudes and uniformly random phases, from a CPU generator: the low anchor."""
    magnitude = _linear_magnitude(mel, mel_module)
    phase = 2 * math.pi * torch.rand(magnitude.shape, generator=generator, dtype=torch.float64).numpy()
    padded = librosa.istft(
        magnitude * np.exp(1j * phase),
        hop_length=mel_module.hop_length,
        win_length=mel_module.win_length,
        n_fft=mel_module.n_fft,
        center=False,
    )
    return _cut(padded, mel, mel_module)


def world(audio: Audio, sample_rate: int) -> Tensor:
    """Copy synthesis by WORLD (T,): pitch, spectral envelope and aperiodicity of a recording, and a new waveform from them.

    It is late by about 1 ms, the delay of its minimum-phase responses. MissingLibraryError where pyworld is not installed.

    References:
        Morise, Yokomori and Ozawa, 2016, "WORLD: a vocoder-based high-quality speech synthesis system"
    """
    pyworld = optional_library("pyworld", "world")
    clip = checked_clip("audio", audio).numpy()
    f0, times = pyworld.harvest(clip, sample_rate)
    envelope = pyworld.cheaptrick(clip, f0, times, sample_rate)
    aperiodicity = pyworld.d4c(clip, f0, times, sample_rate)
    copy = pyworld.synthesize(f0, envelope, aperiodicity, sample_rate)
    return torch.from_numpy(librosa.util.fix_length(copy, size=len(clip))).float()
