"""Figures that judge audio, each of one clip, and anchors that put them in proportion.

Pure functions of arrays or tensors: nothing is read, written or kept. A clip is 1-D (T,), float in [-1, 1). Two clips
that are compared sample by sample or frame by frame must be aligned and equally long: at these hops 64 samples of lag
cost more than most models differ by. Where a figure has no value (silence, nothing voiced) it is `nan`, and
`mean_interval` leaves it out.

The anchors, `griffin_lim` and `random_phase`, start from the mel alone, as a vocoder does. Any model must beat random
phase; Griffin-Lim beats published neural vocoders on mel distances, so that "better than Griffin-Lim" on those proves
little.
"""

import io
import math
from collections.abc import Iterable
from typing import NamedTuple

import librosa
import numpy as np
import soundfile
import torch
from scipy.special import stdtrit
from torch import Tensor

from wavflow.mel import MelSpectrogram

FULL_SCALE_16_BIT = 32768


class Interval(NamedTuple):
    """A mean, the half-width of its 95 % confidence interval, and how many values it rests on."""

    mean: float
    half_width: float
    n: int


def _clip(name: str, audio: Tensor | np.ndarray) -> Tensor:
    """One clip (T,) as float64 on the CPU; refuses other shapes, integers and values that are not finite."""
    audio = torch.as_tensor(audio).detach().cpu()
    if audio.dim() != 1 or audio.numel() == 0:
        raise ValueError(f"`{name}` must be one clip (T,) with T >= 1, got shape {tuple(audio.shape)}: pass clips one by one.")
    if not audio.is_floating_point():
        raise ValueError(f"`{name}` must be floating point in [-1, 1), got {audio.dtype}: divide 16-bit integers by 32768.")
    if not audio.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity: the clip can't be judged, leave it out.")
    return audio.double()


def _pair(generated: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    generated, reference = _clip("generated", generated), _clip("reference", reference)
    if len(generated) != len(reference):
        raise ValueError(
            f"`generated` and `reference` must be equally long, got {len(generated)} and {len(reference)} samples: "
            "align them and cut the longer one."
        )
    return generated, reference


def bits_per_sample(log_prob: Tensor | float) -> Tensor | float:
    """Code length of 16-bit audio, `(ln 32768 - log_prob) / ln 2`, in bits per sample.

    Args:
        log_prob: Log-density on [-1, 1) in nats per sample, constants included; any shape.
    """
    return (math.log(FULL_SCALE_16_BIT) - log_prob) / math.log(2)


def flac_bits(audio: Tensor | np.ndarray, sample_rate: int) -> float:
    """Bits per sample of FLAC at its best level, the lossless yardstick for a likelihood.

    The file's metadata (86 bytes as libsndfile writes them, .01 bits per sample of a 3 s clip) is left out, so the
    figure is FLAC at its most favourable.

    Args:
        audio: (T,), int16, or float in [-1, 1], rounded to the 16-bit grid, which undoes dequantisation.
        sample_rate: In Hz.

    Raises:
        ValueError: If the clip has another shape or type, is not finite or leaves [-1, 1].
    """
    audio = torch.as_tensor(audio)
    if audio.dtype != torch.int16:
        audio = _clip("audio", audio)
        if audio.abs().max() > 1 + 1 / FULL_SCALE_16_BIT:
            raise ValueError(f"`audio` must lie in [-1, 1], got a peak of {audio.abs().max():.3g}: scale it down.")
        audio = (audio * FULL_SCALE_16_BIT).round().clamp(-FULL_SCALE_16_BIT, FULL_SCALE_16_BIT - 1).to(torch.int16)
    if audio.dim() != 1 or audio.numel() == 0:
        raise ValueError(f"`audio` must be one clip (T,) with T >= 1, got shape {tuple(audio.shape)}: pass clips one by one.")
    file = io.BytesIO()
    soundfile.write(file, audio.cpu().numpy(), sample_rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    data = file.getvalue()
    # After the 4-byte mark come metadata blocks: a byte whose top bit says "last", three bytes of length, content.
    start, last = 4, False
    while not last:
        last = data[start] >= 0x80
        start += 4 + int.from_bytes(data[start + 1 : start + 4], "big")
    return 8 * (len(data) - start) / len(audio)


def rms_ratio(generated: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """RMS of `generated` over that of `reference`; healthy: 0.9 .. 1.1. `nan` if the reference is silent."""
    reference_rms = _clip("reference", reference).square().mean().sqrt().item()
    generated_rms = _clip("generated", generated).square().mean().sqrt().item()
    return generated_rms / reference_rms if reference_rms > 0 else math.nan


def level_db(generated: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """Level of `generated` over `reference` in dB, `20 log10 rms_ratio`; `-inf` if only `generated` is silent."""
    ratio = rms_ratio(generated, reference)
    return -math.inf if ratio == 0 else 20 * math.log10(ratio)


def log_spectral_distance(generated: Tensor | np.ndarray, reference: Tensor | np.ndarray, floor_db: float = -100.0) -> float:
    """Log-spectral distance in dB: per frame the RMS over bins of the level difference, then the mean over frames.

    `mean_f sqrt(mean_k (L_gen[k, f] - L_ref[k, f])^2)`, `L = max(20 log10 |S| / |S_full|, floor_db)`. STFT of 1024
    samples, hop 256, periodic Hann window, centred frames, zeros beyond the ends; S_full is the bin of a full-scale
    sine. All bins from 0 to the Nyquist frequency count alike.

    Args:
        generated: (T,), in [-1, 1).
        reference: (T,), aligned to it.
        floor_db: Levels below are raised to it. At -100 dB the rounding noise of 16-bit audio vanishes.

    Raises:
        ValueError: If a clip is not (T,), not finite, or the lengths differ.
    """
    window = torch.hann_window(1024, dtype=torch.float64)
    full_scale = window.sum() / 2
    signals = torch.stack(_pair(generated, reference))
    spectrum = torch.stft(signals, 1024, 256, window=window, pad_mode="constant", return_complex=True)
    level = 20 * (spectrum.abs() / full_scale).clamp(min=10 ** (floor_db / 20)).log10()
    return (level[0] - level[1]).square().mean(dim=0).sqrt().mean().item()


def mel_l1(generated: Tensor | np.ndarray, reference: Tensor | np.ndarray, mel_module: MelSpectrogram) -> float:
    """Mean absolute difference of the two log-mel spectrograms, in nats.

    Args:
        generated: (T,), in [-1, 1).
        reference: (T,), aligned to it.
        mel_module: Yields the natural log of the mel; its `f_max` says which band is judged.

    Raises:
        ValueError: If a clip is not (T,), not finite, or the lengths differ.
    """
    signals = torch.stack(_pair(generated, reference)).to(mel_module.window.device)
    mel = mel_module(signals)
    return (mel[0] - mel[1]).abs().mean().item()


def voicing_f1(generated: Tensor | np.ndarray, reference: Tensor | np.ndarray, sample_rate: int) -> float:
    """F1 of the voiced frames: does the clip hum where the recording hums? 1 is perfect, a whisper has about 0.

    Voicing by pYIN between 60 and 500 Hz every 256 samples; the two tracks are cut to the shorter one. `nan` if neither
    clip has a voiced frame.

    Args:
        generated: (T,), in [-1, 1).
        reference: (T',), aligned to it.
        sample_rate: In Hz.

    Raises:
        ValueError: If a clip is not (T,) or not finite.

    References:
        pYIN (Mauch and Dixon, 2014); figures of other systems: CARGAN (Morrison et al., 2022),
        https://arxiv.org/abs/2110.10139
    """
    frame_length = 2 ** round(math.log2(0.09 * sample_rate))  # about 90 ms: 2048 samples at 22.05 kHz

    def voiced(name: str, audio: Tensor | np.ndarray) -> np.ndarray:
        clip = _clip(name, audio).numpy()
        flags = librosa.pyin(clip, fmin=60, fmax=500, sr=sample_rate, frame_length=frame_length, hop_length=256)[1]
        return flags.astype(bool)

    found, wanted = voiced("generated", generated), voiced("reference", reference)
    frames = min(len(found), len(wanted))
    found, wanted = found[:frames], wanted[:frames]
    marked = found.sum() + wanted.sum()
    return float(2 * (found & wanted).sum() / marked) if marked else math.nan


def mean_interval(values: Iterable[float]) -> Interval:
    """Mean over clips with the half-width of its 95 % Student-t interval.

    Args:
        values: One figure per clip. Those that are not finite are left out; `n` counts what is used.

    Returns:
        `(mean, half_width, n)`; the half-width of one value is `nan`, and so is the mean of none.
    """
    kept = np.asarray([float(value) for value in values], dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    n = len(kept)
    if n < 2:
        return Interval(float(kept[0]) if n else math.nan, math.nan, n)
    half_width = stdtrit(n - 1, 0.975) * kept.std(ddof=1) / math.sqrt(n)
    return Interval(float(kept.mean()), float(half_width), n)


def _linear_magnitude(mel: Tensor, mel_module: MelSpectrogram) -> np.ndarray:
    """Magnitude spectrogram (n_fft // 2 + 1, F), not negative, whose mel is the given one; 0 above `f_max`."""
    mel_module.check(mel.unsqueeze(0))
    filterbank = mel_module.filterbank.detach().cpu().double().numpy()
    return librosa.util.nnls(filterbank, mel.detach().cpu().double().exp().numpy())


def _cut(padded: np.ndarray, mel: Tensor, mel_module: MelSpectrogram) -> Tensor:
    """The F * hop_length samples that the frames stand for, out of their overlap-add.

    The first frame begins before the audio does:

        padded |<-- n_fft // 2 - frame_centre -->| audio, F * hop_length |
        frame 0 |<------------- n_fft ----------------->|

    so that frame f stays centred on sample f * hop_length + frame_centre and the lag is 0.
    """
    length = mel.shape[-1] * mel_module.hop_length
    audio = padded[mel_module.n_fft // 2 - int(mel_module.frame_centre) :][:length]
    return torch.from_numpy(np.pad(audio, (0, length - len(audio)))).to(mel)


def griffin_lim(mel: Tensor, mel_module: MelSpectrogram, iterations: int = 32) -> Tensor:
    """Audio whose phase is sought by (fast) Griffin-Lim iterations from a fixed random start.

    Args:
        mel: (n_mels, F), natural log.
        mel_module: The one that made `mel`.
        iterations: Rounds of STFT and inverse.

    Returns:
        (F * hop_length,), aligned with the audio that `mel` came from.

    Raises:
        ValueError: If `mel` does not fit `mel_module`.

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
    """Audio with the mel's magnitudes and uniformly random phases: the low anchor.

    Args:
        mel: (n_mels, F), natural log.
        mel_module: The one that made `mel`.
        generator: Draws the phases, on the CPU.

    Returns:
        (F * hop_length,), aligned with the audio that `mel` came from.

    Raises:
        ValueError: If `mel` does not fit `mel_module`.
    """
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
