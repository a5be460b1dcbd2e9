"""The filters of `wavflow.flows.whitening` in the coder's own arithmetic: from a mel, to the last bit, on every machine.

The formulas are those of `LinearPrediction` and `MelPitch`, which say where they come from. NumPy computes +, -, *, / and the
square root number by number, as IEEE 754 has it, and `cumsum` adds in order; its other sums and its functions are not used.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wavflow.flows.linear_prediction import LAG_WINDOW, LARGEST_FALL, WHITE_NOISE, LinearPrediction
from wavflow.flows.pitch_prediction import HIGHEST, LOWEST, RIPPLE_BELOW, MelPitch
from wavflow.likelihood.arithmetic import add_products, cosine_each, exp, exp_each, log
from wavflow.mel import MelSpectrogram
from wavflow.nn.upsampler import interpolation_weights

PITCHES, NEIGHBORS = 256, 7


class Filters(NamedTuple):
    """Of N blocks of samples, float64."""

    coefficients: np.ndarray  # (N, p), of the sample before first
    gain: np.ndarray  # (N,)
    lags: np.ndarray  # (N, J) int64; J = 0 without pitch
    weights: np.ndarray  # (N, J)


class ExactWhitening:
    """Computes the filters of a model's whitening from a mel.

    Args:
        mel: The convention of the mel.
        linear: The model's linear prediction.
        pitch: Estimates the pitch; None for a model that does not use it.
    """

    def __init__(self, mel: MelSpectrogram, linear: LinearPrediction, pitch: MelPitch | None) -> None:
        self.block_length, self._floor = linear.block_length, linear.floor * linear.floor
        blocks = mel.hop_length // self.block_length
        self._kernel = interpolation_weights(blocks, mel.frame_center / self.block_length).numpy()  # + - and / alone
        lags = np.arange(linear.order + 1)
        turns = LAG_WINDOW / mel.sample_rate * lags
        self._lag_window = exp_each(-2.0 * (math.pi * math.pi) * (turns * turns))
        self._lag_window[0] += WHITE_NOISE
        self._cosines = cosine_each(np.outer(np.arange(mel.n_fft // 2 + 1), lags) % mel.n_fft / mel.n_fft)
        self._spectrum = self._pitch = None
        if not mel.n_mels:
            self._spectrum = _usual_power(mel, self._cosines)
            return
        bank = filterbank(mel)
        weight = np.maximum(np.cumsum(bank, axis=1)[:, -1], 1e-12)
        bins = np.arange(bank.shape[1], dtype=np.float64)
        centers = np.cumsum(bank * bins, axis=1)[:, -1] / weight
        window = 0.5 - 0.5 * cosine_each(np.arange(mel.win_length) / mel.win_length)
        self._log_weight = np.array([log(w) for w in weight])
        self._log_unit = log(math.sqrt(math.pi) / 2.0 * math.sqrt(np.cumsum(window * window)[-1]))
        told = bins[bins <= centers[-1]] if mel.f_max < mel.sample_rate / 2 else bins
        self._upper = np.searchsorted(centers, told).clip(1, len(centers) - 1)
        below, above = centers[self._upper - 1], centers[self._upper]
        self._fraction = ((told - below) / (above - below)).clip(0.0, 1.0)
        ratio = centers[-1] / bins[len(told) :]
        self._extrapolation = (ratio * ratio) * (ratio * ratio)
        self._pitch = None if pitch is None else _PitchTables(mel, pitch, bank, weight, centers)

    def filters(self, mel: np.ndarray) -> Filters:
        """Returns the filters of the F inner frames of a log-mel (F + 2, n_mels); the outer two are their neighbors."""
        before, here, after = (mel[i : len(mel) - 2 + i, None] for i in range(3))  # (F, 1, n_mels)
        first, middle, last = self._kernel[..., None]
        at_blocks = np.concatenate(first * before + middle * here + last * after)
        if self._spectrum is not None:
            power = np.repeat(self._spectrum[None], len(at_blocks), axis=0)
        else:
            loudest = np.maximum(np.maximum(before, here), after)[:, 0].repeat(self._kernel.shape[1], axis=0)
            power = self._power(np.maximum(at_blocks, loudest - LARGEST_FALL) - self._log_weight - self._log_unit)
        power = power + self._floor
        lags, weights = np.zeros((len(power), 0), np.int64), np.zeros((len(power), 0))
        if self._pitch is not None:
            strength, lags, weights = self._pitch.comb(at_blocks)
            loss = strength[:, None] * self._pitch.response
            power = power * (1.0 - loss * loss)
        coefficients, gain = _predictors(_autocorrelation(power, self._cosines) * self._lag_window)
        return Filters(coefficients, gain, lags, weights)

    def _power(self, levels: np.ndarray) -> np.ndarray:
        """Returns the power spectra (N, bins) of bands' log-magnitudes (N, n_mels), and the bins beyond the last band."""
        below, above = levels[:, self._upper - 1], levels[:, self._upper]
        power = exp_each(2.0 * ((1.0 - self._fraction) * below + self._fraction * above))
        upper_half = power[:, power.shape[1] // 2 :]
        mean = np.cumsum(upper_half, axis=1)[:, -1:] / upper_half.shape[1]
        return np.concatenate([power, mean * self._extrapolation], axis=1)


class _PitchTables:
    """The tables by which `MelPitch` estimates the pitch, and the comb of that pitch."""

    def __init__(self, mel: MelSpectrogram, pitch: MelPitch, bank: np.ndarray, weight: np.ndarray, centers: np.ndarray) -> None:
        self._sample_rate, self._half_width, self._strongest = mel.sample_rate, pitch.half_width, pitch.strongest
        bands = int((centers * mel.sample_rate / mel.n_fft < RIPPLE_BELOW).sum())
        lowest, highest = log(LOWEST), log(HIGHEST)
        self._log_pitches = lowest + (highest - lowest) * np.arange(PITCHES) / (PITCHES - 1)
        self._log_weight = np.array([log(w) for w in weight[:bands]])
        self._templates = _templates(mel, exp_each(self._log_pitches), bank[:bands], weight[:bands])
        # The comb's response at the bins of the spectrum.
        bins, width = mel.n_fft // 2 + 1, self._half_width + 1
        kernel = _raised_cosine(np.arange(-self._half_width, width), width)
        self.response = np.zeros(bins)
        for k, tap in enumerate(kernel / np.cumsum(kernel)[-1]):
            self.response += tap * cosine_each((k - self._half_width) * np.arange(bins) / mel.n_fft)

    def comb(self, at_blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns b (N,), the lags and the weights b * h (N, J) of blocks of a log-mel (N, n_mels)."""
        ripple = _without_local_mean(at_blocks[:, : len(self._log_weight)] - self._log_weight)
        scores = np.zeros((len(ripple), PITCHES))
        add_products(scores, ripple, self._templates)
        best = scores.argmax(axis=1).clip(1, PITCHES - 2)
        below, peak, above = (scores[np.arange(len(scores)), best + k] for k in (-1, 0, 1))
        shift = (0.5 * (above - below) / np.maximum(2.0 * peak - below - above, 1e-9)).clip(-0.5, 0.5)
        step = self._log_pitches[1] - self._log_pitches[0]
        period = (self._sample_rate * exp_each(-(self._log_pitches[best] + shift * step)))[:, None]
        square = np.cumsum(np.insert(ripple * ripple, 0, 1.0, axis=1), axis=1)[:, -1]
        strength = self._strongest * ((peak / np.sqrt(square) - 0.4) / 0.45).clip(0.0, 1.0)
        lags = np.floor(period).astype(np.int64) + np.arange(-self._half_width, self._half_width + 2)
        kernel = _raised_cosine(lags - period, self._half_width + 1)
        return strength, lags, strength[:, None] * (kernel / np.cumsum(kernel, axis=1)[:, -1:])


def filterbank(mel: MelSpectrogram) -> np.ndarray:
    """Returns Slaney's triangles (n_mels, n_fft / 2 + 1) over the bins, each of the same area: linear up to 1 kHz, then log."""
    step = log(6.4) / 27.0

    def to_mel(hertz: float) -> float:
        return 3.0 * hertz / 200.0 if hertz < 1000.0 else 15.0 + log(hertz / 1000.0) / step

    low, high = to_mel(float(mel.f_min)), to_mel(float(mel.f_max))
    points = low + (high - low) * np.arange(mel.n_mels + 2) / (mel.n_mels + 1)
    edges = np.array([200.0 * m / 3.0 if m < 15.0 else 1000.0 * exp(step * (m - 15.0)) for m in points])
    bins = mel.n_fft // 2 + 1
    hertz = (mel.sample_rate // 2) * np.arange(bins) / (bins - 1)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle))
    return np.maximum(triangles, 0.0) * (2.0 / (right - left))


def _usual_power(mel: MelSpectrogram, cosines: np.ndarray) -> np.ndarray:
    """Returns the power (n_fft / 2 + 1,) that a model without a mel takes for that of all audio, see `_usual_spectrum`."""
    octaves = np.arange(mel.n_fft // 2 + 1) * mel.sample_rate / mel.n_fft / 600.0
    density = 1.0 / (1.0 + octaves * octaves)
    return 0.1 * 0.1 * density / _autocorrelation(density[None], cosines[:, :1].copy())[0]


def _autocorrelation(power: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Returns the lags (N, p + 1) that power spectra (N, bins) tell; cosines (bins, p + 1) of 2 pi * bin * lag / n_fft."""
    bins, n_fft = np.arange(len(cosines)), 2 * (len(cosines) - 1)
    r, twice = np.zeros((len(power), cosines.shape[1])), np.where((bins == 0) | (bins == bins[-1]), 1.0, 2.0)
    add_products(r, twice * power / n_fft, cosines)
    return r


def _predictors(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coefficients (N, p) and gains (N,) of lags (N, p + 1), by Levinson and Durbin's recursion."""
    a, error = np.zeros((len(r), r.shape[1] - 1)), r[:, 0]
    for i in range(a.shape[1]):
        left = np.cumsum(np.concatenate([r[:, i + 1, None], -(a[:, :i] * r[:, i:0:-1])], axis=1), axis=1)[:, -1]
        reflection = left / error
        a[:, :i] -= reflection[:, None] * a[:, :i][:, ::-1]
        a[:, i] = reflection
        error = error * (1.0 - reflection * reflection)
    return a, np.sqrt(error)


def _raised_cosine(distance: np.ndarray, width: int) -> np.ndarray:
    return 0.5 + 0.5 * cosine_each(0.5 * (distance / width).clip(-1.0, 1.0))


def _sinc(x: np.ndarray) -> np.ndarray:
    return np.divide(cosine_each(0.5 * x - 0.25), math.pi * x, out=np.ones_like(x), where=x != 0.0)


def _without_local_mean(bands: np.ndarray) -> np.ndarray:
    """Takes from each band (N, n) the mean of itself and its neighbors; the first and the last stand for those beyond."""
    ripple, n = bands.copy(), bands.shape[1]
    neighbors = np.pad(bands, ((0, 0), (NEIGHBORS, NEIGHBORS)), "edge") / (2 * NEIGHBORS + 1)
    for k in range(2 * NEIGHBORS + 1):
        ripple -= neighbors[:, k : k + n]
    return ripple


def _templates(mel: MelSpectrogram, pitches: np.ndarray, bank: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the ripples (n, pitches) of harmonic spectra in bands (n, bins) of a weight (n,) each; of length 1."""
    hertz, window = np.arange(bank.shape[1])[:, None] * (mel.sample_rate / mel.n_fft), mel.win_length / mel.sample_rate
    logs, harmonics = np.zeros((len(pitches), len(bank))), np.arange(1, int(2.0 * RIPPLE_BELOW / LOWEST) + 1)
    for p, pitch in enumerate(pitches):
        x = (hertz - harmonics[harmonics * pitch < 2.0 * RIPPLE_BELOW] * pitch) * window
        spectrum = np.abs(_sinc(x) + 0.5 * _sinc(x - 1.0) + 0.5 * _sinc(x + 1.0)).max(axis=1) + 0.02
        logs[p] = [log(power) for power in np.cumsum(bank * spectrum, axis=1)[:, -1] / weight]
    ripple = _without_local_mean(logs)
    length = np.sqrt(np.cumsum(ripple * ripple, axis=1)[:, -1:])
    return np.ascontiguousarray((ripple / length).T)
