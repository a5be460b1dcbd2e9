"""Whitening by the pitch that the mel tells: the long-term companion of linear prediction.

The narrow low bands of a mel resolve the harmonics of a voice. Their ripple tells the period P and how periodic the signal
is (b), frame by frame: on LJSpeech to 18 cents at the median, beside pyin on the recordings. A comb predicts each
sample from one period before,

    e[t] = u[t] - b * sum_j h_j u[t - P - j],        log |de/du| = 0,

with a short smooth kernel h, since high harmonics drift out of phase within a period. The inverse is voiced sound: noise
through this comb and the envelope hums where plain noise through the envelope whispers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from wavflow.flows.base import log_det_of_identity
from wavflow.flows.mel_blocks import MelBlocks
from wavflow.flows.recursion import prediction, recursion
from wavflow.mel import MelSpectrogram
from wavflow.nn.exact_buffers import ExactBuffers

LOWEST, HIGHEST = 70.0, 420.0  # Hz, of the pitch
RIPPLE_BELOW = 1200.0  # Hz: above, the bands of usual mels are wider than the harmonics are apart


class MelPitch(ExactBuffers):
    """Period and periodicity of a voice from its log-mel, without parameters.

    The log-mel below 1.2 kHz, less its local mean, is compared with that of harmonic spectra of 256 pitches.

    Args:
        mel: The convention of the mel.
        strongest: b of a perfect match; below 1, so that the comb is stable.

    Raises:
        ValueError: When the mel does not resolve harmonics, see `resolves`.
    """

    def __init__(self, mel: MelSpectrogram, strongest: float = 0.95) -> None:
        super().__init__()
        if not self.resolves(mel):
            raise ValueError("`mel` does not resolve the harmonics of a voice: it needs longer windows and more bands.")
        self.sample_rate = mel.sample_rate
        self.strongest = strongest
        # As smooth as the drift of the harmonics asks for: the comb reaches up to some 2 kHz.
        self.half_width = max(1, round(1.8e-4 * mel.sample_rate))
        filterbank = mel.filterbank.double()
        weight = filterbank.sum(dim=1)
        hertz = torch.arange(filterbank.shape[1], dtype=torch.float64) * mel.sample_rate / mel.n_fft
        n_bands = _bands_with_ripple(mel)
        flatten = _less_local_mean(n_bands)
        pitches = torch.exp(torch.linspace(math.log(LOWEST), math.log(HIGHEST), 256, dtype=torch.float64))
        spectra = []
        for pitch in pitches:
            harmonics = torch.arange(pitch, 2.0 * RIPPLE_BELOW, pitch, dtype=torch.float64)
            offset = (hertz[:, None] - harmonics) * mel.win_length / mel.sample_rate  # in bins of the window
            lobe = torch.sinc(offset) + 0.5 * torch.sinc(offset - 1.0) + 0.5 * torch.sinc(offset + 1.0)  # Hann
            spectrum = lobe.abs().amax(dim=1) + 0.02  # and a noise floor
            spectra.append((filterbank @ spectrum / weight).log()[:n_bands] @ flatten)
        templates = torch.stack(spectra)
        self.log_pitches = nn.Buffer(pitches.log(), persistent=False)
        self.log_weight = nn.Buffer(weight[:n_bands].log(), persistent=False)
        self.flatten = nn.Buffer(flatten, persistent=False)
        self.templates = nn.Buffer(templates / templates.norm(dim=1, keepdim=True), persistent=False)

    @staticmethod
    def resolves(mel: MelSpectrogram) -> bool:
        """Whether a mel shows the harmonics of most voices: main lobes below 100 Hz, 20 bands below 1.2 kHz."""
        return 4.0 * mel.sample_rate / mel.win_length < 100.0 and _bands_with_ripple(mel) >= 20

    @property
    def shortest_lag(self) -> int:
        """The least delay at which the comb looks back, in samples."""
        return int(self.sample_rate / HIGHEST) - self.half_width

    @property
    def longest_lag(self) -> int:
        """The greatest delay at which the comb looks back, in samples."""
        return int(self.sample_rate / LOWEST) + self.half_width + 2

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the period in samples and b in [0, 1), both (B, N), of log-mels (B, N, n_mels)."""
        ripple = (log_mel[..., : len(self.log_weight)].double() - self.log_weight) @ self.flatten
        scores = ripple @ self.templates.T
        best = scores.argmax(dim=-1, keepdim=True).clamp(1, scores.shape[-1] - 2)
        below, peak, above = (scores.gather(-1, best + step).squeeze(-1) for step in (-1, 0, 1))
        bend = (2.0 * peak - below - above).clamp_min(1e-9)
        shift = (0.5 * (above - below) / bend).clamp(-0.5, 0.5)  # of the parabola through the three
        step = self.log_pitches[1] - self.log_pitches[0]
        period = self.sample_rate * torch.exp(-(self.log_pitches[best.squeeze(-1)] + shift * step))
        match = peak / (ripple.square().sum(dim=-1) + 1.0).sqrt()  # a correlation; no ripple is no match
        # The best b, measured on LJSpeech: little up to 0.4, nearly 1 from 0.85 on.
        return period, self.strongest * ((match - 0.4) / 0.45).clamp(0.0, 1.0)

    def taps(self, period: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the lags in samples, integers, and the kernel h that sums to 1, both (..., J), of periods (...)."""
        lags = (period.floor() - self.half_width).unsqueeze(-1) + torch.arange(2 * self.half_width + 2, device=period.device)
        kernel = raised_cosine(lags - period.unsqueeze(-1), self.half_width + 1)
        return lags.long(), kernel / kernel.sum(dim=-1, keepdim=True)

    def innovation_share(self, strength: Tensor, n_bins: int) -> Tensor:
        """Returns `1 - (b |H(w)|)^2`, (B, N, n_bins): the share of a spectrum's power that the comb does not predict.

        The envelope of the mel holds both, so the short-term predictor is made for this share of it: the comb then
        brings the level back.
        """
        offset = torch.arange(-self.half_width, self.half_width + 1, dtype=torch.float64, device=strength.device)
        kernel = raised_cosine(offset, self.half_width + 1)
        omega = math.pi * torch.arange(n_bins, dtype=torch.float64, device=strength.device) / (n_bins - 1)
        response = (kernel / kernel.sum()) @ torch.cos(offset[:, None] * omega)
        return 1.0 - (strength.unsqueeze(-1) * response).square()


class PitchPrediction(MelBlocks):
    """Takes the predictable part of a voiced signal out, by a comb at the period that the mel tells.

    Forward is one parallel pass, inverse a recursion. |b| < 1 and h >= 0 sums to 1, so
    no frame can make it unstable. `cond` is the conditioning mel (B, n_mels, F).

    Args:
        mel: The convention of the conditioning mel.
        pitch: Reads period and periodicity from it.

    References:
        Atal & Schroeder, Adaptive predictive coding of speech signals (1970); there the predictor is sent along, here the
        mel is enough.
    """

    def __init__(self, mel: MelSpectrogram, pitch: MelPitch) -> None:
        super().__init__(mel)
        self.pitch = pitch

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Takes the prediction out of u (B, 1, T); returns e and zeros (B, T)."""
        u = self.in_blocks(x, cond).flatten(1)
        lag, weights = self._comb(x, cond)
        return (u - prediction(u, weights, lag)).unsqueeze(1), log_det_of_identity(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Puts the prediction back into e (B, 1, T); returns u and zeros (B, T)."""
        e = self.in_blocks(z, cond).flatten(1)
        lag, weights = self._comb(z, cond)
        return recursion(e, weights, lag).unsqueeze(1), log_det_of_identity(z)

    def _comb(self, x: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the shortest lag (B, N) and the weights b * h (B, N, J) of each block, that of the shortest lag first."""
        period, strength = self.pitch(self.at_blocks(mel))
        lags, kernel = self.pitch.taps(period)
        return lags[..., 0].expand(len(x), -1), (strength.unsqueeze(-1) * kernel).to(x.dtype).expand(len(x), -1, -1)


def raised_cosine(distance: Tensor, width: int) -> Tensor:
    """Returns 1 at distance 0, falling to 0 at `width` samples; samples of it, one apart, sum to `width`."""
    return 0.5 + 0.5 * torch.cos(math.pi * (distance / width).clamp(-1.0, 1.0))


def _bands_with_ripple(mel: MelSpectrogram) -> int:
    """Returns how many of the lowest bands can show the harmonics of a voice."""
    return int((mel.band_centers() * mel.sample_rate / mel.n_fft < RIPPLE_BELOW).sum())


def _less_local_mean(n: int, reach: int = 7) -> Tensor:
    """Returns the matrix (n, n) that takes from each band the mean of itself and of `reach` neighbors on either side."""
    matrix = torch.eye(n, dtype=torch.float64)
    for band in range(n):
        for neighbor in range(band - reach, band + reach + 1):
            matrix[min(max(neighbor, 0), n - 1), band] -= 1.0 / (2 * reach + 1)
    return matrix
