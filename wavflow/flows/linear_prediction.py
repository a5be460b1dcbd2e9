"""Whitening by the mel: an exact, parameter-free first map of every audio flow.

A mel frame tells the spectral envelope, hence a linear predictor a[1..p] and a gain g:

    u[t] = (x[t] - sum_k a_k[t] x[t-k]) / g[t],        log |du/dx| = -log g[t].

log-mel -> log-interpolated power spectrum -> autocorrelation -> Levinson-Durbin -> a, g. The log-mel is interpolated in time
*before* that, so that every block of samples has the minimum-phase filter of a true spectrum: interpolating a[] directly
could leave the stable region.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from wavflow.arguments import at_least, at_least_float32
from wavflow.flows.mel_blocks import MelBlocks
from wavflow.flows.pitch_prediction import MelPitch
from wavflow.flows.recursion import prediction, recursion
from wavflow.mel import MelSpectrogram

LAG_WINDOW = 70.0
"""Standard deviation in Hz of the Gaussian that smooths the spectrum. It costs untrained voices some 2 dB of level."""
WHITE_NOISE = 1e-5
"""Power of the white noise that is added to the spectrum, as a fraction of the signal's."""
LARGEST_FALL = 6.0
"""Nats by which a band may lie below the same band in the frame before or after it."""


class LinearPrediction(MelBlocks):
    """Whitens audio by the envelope and level that its own mel spectrogram tells.

    Forward is one parallel pass; inverse is an order-p recursion, differentiable, on CPU and GPU.
    `cond` is the conditioning mel (B, n_mels, F) and T = F * hop_length. Coefficients are held for a block of `hop_length / 4`
    samples.

    Every block's filter is stable, but filters with sharp peaks in quick succession are not: each one amplifies what the last
    one left ringing. Three limits bound the output in the usual conventions, for gliding tones and for mels that no sound has:
    peaks are at least `LAG_WINDOW` wide, the spectrum lies at most some 50 dB below its mean (`WHITE_NOISE`), and no band falls
    by more than `LARGEST_FALL` between neighboring frames.

    The gain is absolute, not fitted: white noise of variance s^2 has mean magnitude `s * sqrt(sum w^2) * sqrt(pi) / 2` in a
    window w, and the mel is a weighted mean of magnitudes.

    Where the mel has no bands, the spectrum is the same for all audio, see `_usual_spectrum`.

    Args:
        mel: The convention of the conditioning mel.
        order: p, prediction order.
        floor: Standard deviation of a white floor under the spectrum, on [-1, 1); the default is that of 16-bit rounding,
            which dequantized audio never goes below. It keeps digital silence finite.
        pitch: Where a `PitchPrediction` follows: its share of the spectrum is left to it. None for none.

    References:
        Makhoul, Linear prediction: a tutorial review (1975), section II; the lag window: Tohkura, Itakura & Hashimoto,
        Spectral smoothing technique in PARCOR speech analysis-synthesis (1978); LPCNet (Valin & Skoglund, 2018),
        https://arxiv.org/abs/1810.11846. There the net predicts what is left; here that is a map of a flow.
    """

    def __init__(
        self,
        mel: MelSpectrogram,
        order: int = 32,
        floor: float = 2.0**-15 / math.sqrt(12.0),
        pitch: MelPitch | None = None,
    ) -> None:
        super().__init__(mel)
        at_least(1, order=order)
        self.order = order
        self.floor = floor
        self.pitch = pitch
        self.to_spectrum, self.spectrum_offset, self.extrapolation = (
            nn.Buffer(value, persistent=False) for value in _bands_to_spectrum(mel)
        )
        to_autocorrelation = spectrum_to_autocorrelation(mel.n_fft, order) * _lag_window(mel.sample_rate, order)
        self.to_autocorrelation = nn.Buffer(to_autocorrelation, persistent=False)

    def predictor(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the coefficients a (B, N, p) and the log-gains (B, N) of the N blocks of a log-mel (B, n_mels, F)."""
        # Float64: the dynamic range of a spectrum exceeds what Levinson-Durbin bears in float32, and frames are few.
        log_mel = self.at_blocks(mel)
        envelope = torch.maximum(log_mel, self.loudest_nearby(mel) - LARGEST_FALL) if mel.shape[1] else log_mel
        power = torch.exp(envelope @ self.to_spectrum + self.spectrum_offset)
        upper_half = power[..., power.shape[-1] // 2 :].mean(dim=-1, keepdim=True)
        power = torch.cat([power, upper_half * self.extrapolation], dim=-1) + self.floor**2
        if self.pitch is not None:
            power = power * self.pitch.innovation_share(self.pitch(log_mel)[1], power.shape[-1])
        coefficients, error = levinson_durbin(power @ self.to_autocorrelation)
        return coefficients, 0.5 * error.log()

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Whitens audio x (B, 1, T) by its mel (B, n_mels, F), T = F * hop_length; returns u and -log g (B, T)."""
        blocks, coefficients, log_gain = self._blocks(x, cond)
        predicted = prediction(x[:, 0], coefficients.expand(len(x), -1, -1)).reshape(blocks.shape)
        u = (blocks - predicted) * torch.exp(-log_gain).unsqueeze(-1).to(x.dtype)
        return u.reshape(x.shape), -self._per_sample(log_gain, x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Unwhitens u (B, 1, T) by the mel; returns the audio x (B, 1, T) and log g (B, T)."""
        blocks, coefficients, log_gain = self._blocks(z, cond)
        excitation = blocks * torch.exp(log_gain).unsqueeze(-1)  # in float64
        x = recursion(excitation.flatten(1), coefficients.expand(len(z), -1, -1))
        return x.to(z.dtype).reshape(z.shape), self._per_sample(log_gain, z)

    def _blocks(self, x: Tensor, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns x in blocks (B, N, L), coefficients in x's dtype (B, N, p) and log-gains (B, N)."""
        blocks = self.in_blocks(x, mel)
        coefficients, log_gain = self.predictor(mel)
        return blocks, coefficients.to(x.dtype), log_gain

    def _per_sample(self, log_gain: Tensor, x: Tensor) -> Tensor:
        return at_least_float32(log_gain.to(x.dtype)).repeat_interleave(self.block_length, dim=1)


def levinson_durbin(autocorrelation: Tensor) -> tuple[Tensor, Tensor]:
    """Returns predictor coefficients (..., p) and the prediction error (...) of an autocorrelation (..., p + 1)."""
    order = autocorrelation.shape[-1] - 1
    error = autocorrelation[..., 0]
    a = autocorrelation[..., :0]
    for i in range(order):
        left = autocorrelation[..., i + 1]
        if i:  # onnxruntime-web sums nothing to nothing, not to 0
            left = left - (a * autocorrelation[..., 1 : i + 1].flip(-1)).sum(-1)
        reflection = (left / error).unsqueeze(-1)
        a = torch.cat([a - reflection * a.flip(-1), reflection], dim=-1)
        error = error * (1.0 - reflection.squeeze(-1) ** 2)
    return a, error


def _bands_to_spectrum(mel: MelSpectrogram) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the matrix (n_mels, n) and offset (n,) from a log-mel to the log power density of the first n bins, and the rest.

    The mel tells nothing above its last band. There the spectrum goes on from the mean power of its upper half, falling by
    12 dB an octave as voices do (`extrapolation`, a factor for each of the remaining bins). Holding the last band instead costs
    half a nat per sample on LJSpeech: a hole there would be taken for silence all the way up.
    """
    if not mel.n_mels:
        usual = _usual_spectrum(mel)
        return usual.new_zeros(0, len(usual)), usual.log(), usual[:0]
    weight, centers = mel.filterbank.double().sum(dim=1).clamp_min(1e-12), mel.band_centers()
    bins = torch.arange(mel.filterbank.shape[1], dtype=torch.float64)
    told = int((bins <= centers[-1]).sum()) if mel.f_max < mel.sample_rate / 2 else len(bins)
    above, fraction = (part[:told] for part in mel.between_bands())
    matrix = torch.zeros(len(centers), told, dtype=torch.float64)
    matrix[above - 1, torch.arange(told)] = 1.0 - fraction
    matrix[above, torch.arange(told)] = fraction
    # E|X| of white noise in the window against its standard deviation, see the class.
    unit = math.sqrt(math.pi) / 2.0 * mel.window.double().square().sum().sqrt()
    extrapolation = (bins[told:] / centers[-1]) ** -4.0
    return 2.0 * matrix, -2.0 * (weight.log() + unit.log()) @ matrix, extrapolation


def _usual_spectrum(mel: MelSpectrogram, level: float = 0.1, corner: float = 600.0) -> Tensor:
    """Returns a power density (n_fft / 2 + 1,) that speech and music come near to: it falls by 6 dB an octave from 600 Hz on.

    Steeper ones fit music better and voices worse, whose hiss they don't expect. `level` is the root mean square.
    """
    hertz = torch.arange(mel.n_fft // 2 + 1, dtype=torch.float64) * mel.sample_rate / mel.n_fft
    density = 1.0 / (1.0 + (hertz / corner).square())
    return level**2 * density / (density @ spectrum_to_autocorrelation(mel.n_fft, 0))


def spectrum_to_autocorrelation(n_fft: int, order: int) -> Tensor:
    """Returns the cosine transform (bins, order + 1) of a power spectrum of n_fft / 2 + 1 bins."""
    n_bins = n_fft // 2 + 1
    angle = 2.0 * math.pi / n_fft * torch.outer(torch.arange(n_bins), torch.arange(order + 1)).double()
    share = torch.full((n_bins, 1), 2.0 / n_fft, dtype=torch.float64)
    share[0] = share[-1] = 1.0 / n_fft
    return share * angle.cos()


def _lag_window(sample_rate: int, order: int) -> Tensor:
    """Returns the factors (order + 1,) of an autocorrelation that smooth its spectrum and add white noise to it."""
    lags = torch.arange(order + 1, dtype=torch.float64)
    window = torch.exp(-0.5 * (2.0 * math.pi * LAG_WINDOW / sample_rate * lags).square())
    window[0] += WHITE_NOISE
    return window
