"""How late a clip comes behind the recording, and cutting both to what they share.

A codec or a delay keeps the waveform, so the peak of the cross-correlation gives the lag to the sample. A vocoder makes new
phases: the waveforms hardly correlate (.1 to .5 for Griffin-Lim, WORLD and noise through an envelope), and their best match may
lie anywhere within a pitch period. Then the log spectrograms are correlated instead. They correlate by .7 to .9, and their lag
is right to about 2 ms; a shorter one counts as 0.
"""

import math

import torch
from torch import Tensor

from wavflow.clips import Audio, checked_clip

_SAME_WAVEFORM = 0.7  # the least correlation of two waveforms that gives a lag
_SAME_SPECTRUM = 0.4  # the same for spectrograms; those of different sentences correlate by up to .2
_UNSURE_SECONDS = 0.002


def estimate_lag(generated: Audio, reference: Audio, sample_rate: int, max_seconds: float = 0.1) -> int:
    """Estimates by how many samples `generated` (T,) comes behind `reference` (T',); negative if early.

    Lags of up to `max_seconds` are found, either way, whatever the level and polarity. Returns 0 where the clips are too unlike
    each other, or too quiet or short, to tell.

    Raises:
        ValueError: If a clip has another shape or is not finite, or `max_seconds` is negative.
    """
    generated, reference = checked_clip("generated", generated), checked_clip("reference", reference)
    if not max_seconds >= 0:
        raise ValueError(f"`max_seconds` must be at least 0, got {max_seconds}: give the longest lag to look for.")
    max_lag = min(round(max_seconds * sample_rate), len(generated) - 1, len(reference) - 1)

    match = _correlation(generated[None], reference[None], max_lag).abs()
    if match.max() >= _SAME_WAVEFORM:
        return int(match.argmax()) - max_lag

    n_fft = 2 ** round(math.log2(0.046 * sample_rate))  # 1024 samples at 22.05 kHz; shorter ones see single pitch pulses
    hop_length = n_fft // 8
    first, second = (_log_spectrogram(clip, n_fft, hop_length) for clip in (generated, reference))
    match = _correlation(first, second, max_lag // hop_length)
    peak = int(match.argmax())
    if match[peak] < _SAME_SPECTRUM or not 0 < peak < len(match) - 1:
        return 0
    before, at, after = match[peak - 1 : peak + 2].tolist()
    between = (before - after) / (2 * (before - 2 * at + after))  # the top of the parabola through the three
    lag = round((peak - max_lag // hop_length + between) * hop_length)
    return lag if abs(lag) > _UNSURE_SECONDS * sample_rate else 0


def align(generated: Tensor, reference: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Cuts both clips to the samples that they share, as views, once `generated` is taken back by `lag` samples.

        generated  |--lag--|=========|           reference          |=========|---|

    Raises:
        ValueError: The clips share nothing.
    """
    generated, reference = generated[max(lag, 0) :], reference[max(-lag, 0) :]
    length = min(len(generated), len(reference))
    if length == 0:
        raise ValueError(f"`lag` must leave samples that the clips share, got {lag}: the clips don't belong together.")
    return generated[:length], reference[:length]


def _log_spectrogram(clip: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Log power (bins, frames) without its mean over time; what lies 20 dB below the mean power is flattened."""
    window = torch.hann_window(n_fft, dtype=clip.dtype)
    spectrum = torch.stft(clip, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square()
    level = (power + 0.01 * power.mean() + 1e-20).log()
    return level - level.mean(dim=1, keepdim=True)


def _correlation(first: Tensor, second: Tensor, max_lag: int) -> Tensor:
    """Correlation of rows (rows, T) and (rows, T'), over all rows at once, at lags -max_lag .. max_lag; within -1 .. 1."""
    n = 2 ** math.ceil(math.log2(first.shape[1] + second.shape[1]))
    product = (torch.fft.rfft(first, n) * torch.fft.rfft(second, n).conj()).sum(dim=0)
    norm = torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second)
    return torch.fft.irfft(product, n).roll(max_lag)[: 2 * max_lag + 1] / norm.clamp(min=1e-20)
