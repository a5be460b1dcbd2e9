"""How loud a clip is."""

import math

import numpy as np
import torch
from torch import Tensor

from wavflow.clips import checked_clip

_BLOCK_SECONDS = 0.4  # a gating block of BS.1770
# The coefficients of BS.1770-4, tables 1 and 2: numerator and denominator of a shelf and a high pass, at 48 kHz.
_K_WEIGHTING = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)


def loudness(audio: Tensor | np.ndarray, sample_rate: int) -> float:
    """Integrated loudness of one channel after ITU-R BS.1770-4, in LKFS.

    Unlike the recommendation, the clip is filled up with zeros to whole gating blocks of .4 s, so that short clips and the
    ends of all clips count, and blocks are gated at -70 LKFS below a peak of .25 and not below full scale.

    Args:
        audio: (T,).
        sample_rate: In Hz.

    Raises:
        ValueError: If it is no clip or silent.
    """
    audio = checked_clip("audio", audio)
    peak = audio.abs().max().item() or 1.0
    block = round(_BLOCK_SECONDS * sample_rate)
    step = round(block / 4)
    missing = max(block - len(audio), -(len(audio) - block) % step if len(audio) > block else 0)
    weighted = _k_weighted(torch.nn.functional.pad(audio * (0.25 / peak), (0, missing)), sample_rate)
    energies = weighted.unfold(0, block, step).square().mean(dim=1)
    energies = energies[_lkfs(energies) > -70.0]
    if not len(energies):
        raise ValueError("`audio` must not be silent: nothing can be heard or matched, leave it out.")
    energies = energies[energies > energies.mean() / 10.0]
    return _lkfs(energies.mean()).item() + 20.0 * math.log10(peak / 0.25)


def _lkfs(energy: Tensor) -> Tensor:
    return 10.0 * torch.log10(energy) - 0.691


def _k_weighted(audio: Tensor, sample_rate: int) -> Tensor:
    """Filters a clip (T,) by the response that the recommendation's filters have at 48 kHz, whatever the rate."""
    length = len(audio) + sample_rate  # a second, in which what the filters ring comes to its end
    hertz = torch.fft.rfftfreq(length, 1.0 / sample_rate, dtype=torch.float64).clamp(max=24000.0)
    delay = torch.exp(-2j * math.pi * hertz / 48000.0)
    spectrum = torch.fft.rfft(audio, length)
    for numerator, denominator in _K_WEIGHTING:
        top, bottom = (a + b * delay + c * delay.square() for a, b, c in (numerator, denominator))
        spectrum = spectrum * top / bottom
    return torch.fft.irfft(spectrum, length)[: len(audio)]
