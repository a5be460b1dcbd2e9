"""The filters of `wavflow.flows.whitening` in the coder's own arithmetic: from a mel, to the last bit, on every machine.

The formulas are those of `LinearPrediction` and `MelPitch`, which say where they come from.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wavflow.flows.linear_prediction import LAG_WINDOW, LARGEST_FALL, WHITE_NOISE, LinearPrediction
from wavflow.flows.pitch_prediction import HIGHEST, LOWEST, RIPPLE_BELOW, MelPitch
from wavflow.kernels.compiling import compiled
from wavflow.likelihood.arithmetic import add_products, cosine, exp, log
from wavflow.mel import MelSpectrogram
from wavflow.nn.upsampler import interpolation_weights

PITCHES, NEIGHBOURS = 256, 7
PI = 3.141592653589793


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
        pitch: What reads the pitch, for a model that predicts by it.
    """

    def __init__(self, mel: MelSpectrogram, linear: LinearPrediction, pitch: MelPitch | None) -> None:
        self.block_length, self._order, self._floor = linear.block_length, linear.order, linear.floor * linear.floor
        blocks = mel.hop_length // self.block_length
        self._kernel = interpolation_weights(blocks, mel.frame_center / self.block_length).numpy()  # + - and / alone
        bins = mel.n_fft // 2 + 1
        turns = LAG_WINDOW / mel.sample_rate * np.arange(self._order + 1)
        self._lag_window = np.array([exp(-2.0 * (PI * PI) * (x * x)) for x in turns])
        self._lag_window[0] += WHITE_NOISE
        self._cosines = np.array([cosine(k / mel.n_fft) for k in range(mel.n_fft)])
        self._spectrum = _usual_power(mel, self._cosines) if not mel.n_mels else np.zeros(0)
        bank = filterbank(mel) if mel.n_mels else np.zeros((0, bins))
        weight, centers = _sum_and_center(bank)
        window = np.array([0.5 - 0.5 * cosine(n / mel.win_length) for n in range(mel.win_length)])
        unit = math.sqrt(PI) / 2.0 * math.sqrt(np.cumsum(window * window)[-1])
        self._log_weight = np.array([log(w) for w in weight])
        self._log_unit = log(unit)
        told = np.arange(bins, dtype=np.float64)
        if mel.n_mels:
            told = told[told <= centers[-1]] if mel.f_max < mel.sample_rate / 2 else told
        self._upper = np.searchsorted(centers, told).clip(1, max(1, len(centers) - 1))
        self._fraction, self._extrapolation = np.zeros(len(told)), np.zeros(0)
        if mel.n_mels:
            below, above = centers[self._upper - 1], centers[self._upper]
            self._fraction = ((told - below) / (above - below)).clip(0.0, 1.0)
            ratio = centers[-1] / np.arange(len(told), bins)
            self._extrapolation = (ratio * ratio) * (ratio * ratio)
        self._pitch = None if pitch is None else _PitchTables(mel, pitch, bank, weight, centers)

    def filters(self, mel: np.ndarray) -> Filters:
        """Returns those of the frames of a log-mel (F + 2, n_mels), but for the first and the last, which are neighbors."""
        at_blocks = _interpolated(mel, self._kernel)
        loudest = np.maximum(np.maximum(mel[:-2], mel[1:-1]), mel[2:]).repeat(self._kernel.shape[1], axis=0)
        if len(self._spectrum):
            power = np.repeat(self._spectrum[None], len(at_blocks), axis=0)
        else:
            levels = np.maximum(at_blocks, loudest - LARGEST_FALL) - self._log_weight - self._log_unit
            power = _power(levels, self._upper, self._fraction, self._extrapolation)
        power = power + self._floor
        lags, weights = np.zeros((len(power), 0), np.int64), np.zeros((len(power), 0))
        if self._pitch is not None:
            strength, lags, weights = self._pitch.comb(at_blocks)
            loss = strength[:, None] * self._pitch.response
            power = power * (1.0 - loss * loss)
        coefficients, gain = _predictors(power, self._cosines, self._lag_window)
        return Filters(coefficients, gain, lags, weights)


class _PitchTables:
    """What `MelPitch` reads the pitch by, and the comb that it tells."""

    def __init__(self, mel: MelSpectrogram, pitch: MelPitch, bank: np.ndarray, weight: np.ndarray, centers: np.ndarray) -> None:
        self._sample_rate, self._half_width, self._strongest = mel.sample_rate, pitch.half_width, pitch.strongest
        bands = int((centers * mel.sample_rate / mel.n_fft < RIPPLE_BELOW).sum())
        lowest, highest = log(LOWEST), log(HIGHEST)
        self._log_pitches = lowest + (highest - lowest) * np.arange(PITCHES) / (PITCHES - 1)
        self._log_weight = np.array([log(w) for w in weight[:bands]])
        pitches = np.array([exp(x) for x in self._log_pitches])
        bin_width, window = mel.sample_rate / mel.n_fft, mel.win_length / mel.sample_rate
        self._templates = _templates(pitches, bank[:bands], weight, bin_width, window)
        # The comb's response at the bins of the spectrum.
        bins, width = mel.n_fft // 2 + 1, self._half_width + 1
        kernel = np.array([_raised_cosine(float(k), width) for k in range(-self._half_width, width)])
        self.response = np.zeros(bins)
        for k, tap in enumerate(kernel / np.cumsum(kernel)[-1]):
            self.response += tap * np.array([cosine((k - self._half_width) * i / mel.n_fft) for i in range(bins)])

    def comb(self, at_blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns b (N,), the lags and the weights b * h (N, J) of blocks of a log-mel (N, n_mels)."""
        ripple = _without_local_mean(at_blocks[:, : len(self._log_weight)] - self._log_weight)
        return _comb(ripple, self._templates, self._log_pitches, self._sample_rate, self._half_width, self._strongest)


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


def _sum_and_center(bank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum of each band (n_mels,), and its center in bins."""
    weight = np.maximum(np.cumsum(bank, axis=1)[:, -1], 1e-12)
    return weight, np.cumsum(bank * np.arange(bank.shape[1]), axis=1)[:, -1] / weight


def _usual_power(mel: MelSpectrogram, cosines: np.ndarray) -> np.ndarray:
    """Returns the power (n_fft / 2 + 1,) that a model without a mel takes for that of all audio, see `_usual_spectrum`."""
    octaves = np.arange(mel.n_fft // 2 + 1) * mel.sample_rate / mel.n_fft / 600.0
    density = 1.0 / (1.0 + octaves * octaves)
    energy = np.zeros(1)
    _add_autocorrelation(energy, density, cosines)
    return 0.1 * 0.1 * density / energy[0]


@compiled
def _interpolated(frames, kernel):
    """Takes frames (F + 2, n) to blocks (F * factor, n) with a kernel (3, factor)."""
    factor = kernel.shape[1]
    blocks = np.zeros(((len(frames) - 2) * factor, frames.shape[1]))
    for n in range(len(blocks)):
        f, j = n // factor, n % factor
        for b in range(frames.shape[1]):
            blocks[n, b] = kernel[0, j] * frames[f, b] + kernel[1, j] * frames[f + 1, b] + kernel[2, j] * frames[f + 2, b]
    return blocks


@compiled
def _power(levels, upper, fraction, extrapolation):
    """Returns the power spectra (N, bins) of bands' log-magnitudes (N, n_mels), and the bins beyond the last band."""
    told = len(upper)
    power = np.zeros((len(levels), told + len(extrapolation)))
    for n in range(len(levels)):
        total = 0.0
        for i in range(told):
            below, above = levels[n, upper[i] - 1], levels[n, upper[i]]
            power[n, i] = exp(2.0 * ((1.0 - fraction[i]) * below + fraction[i] * above))
            if i >= told // 2:
                total += power[n, i]
        for i in range(len(extrapolation)):
            power[n, told + i] = total / (told - told // 2) * extrapolation[i]
    return power


@compiled
def _add_autocorrelation(r, power, cosines):
    """Adds the lags r (p + 1,) that a power spectrum (n_fft / 2 + 1,) tells."""
    n_fft, last = len(cosines), len(power) - 1
    for i in range(len(power)):
        weight = power[i] / n_fft if i == 0 or i == last else 2.0 * power[i] / n_fft
        for k in range(len(r)):
            r[k] += weight * cosines[i * k % n_fft]


@compiled
def _predictors(power, cosines, lag_window):
    """Returns the coefficients (N, p) and gains (N,) of power spectra (N, bins), by Levinson and Durbin's recursion."""
    order = len(lag_window) - 1
    coefficients, gain = np.zeros((len(power), order)), np.zeros(len(power))
    r, before = np.zeros(order + 1), np.zeros(order)
    for n in range(len(power)):
        a = coefficients[n]
        for k in range(order + 1):
            r[k] = 0.0
        _add_autocorrelation(r, power[n], cosines)
        for k in range(order + 1):
            r[k] *= lag_window[k]
        error = r[0]
        for i in range(order):
            left = r[i + 1]
            for k in range(i):
                left -= a[k] * r[i - k]
            reflection = left / error
            for k in range(i):
                before[k] = a[k]
            for k in range(i):
                a[k] = before[k] - reflection * before[i - 1 - k]
            a[i] = reflection
            error = error * (1.0 - reflection * reflection)
        gain[n] = math.sqrt(error)
    return coefficients, gain


@compiled
def _raised_cosine(distance, width):
    return 0.5 + 0.5 * cosine(0.5 * min(max(distance / width, -1.0), 1.0))


@compiled
def _sinc(x):
    return 1.0 if x == 0.0 else cosine(0.5 * x - 0.25) / (PI * x)


@compiled
def _without_local_mean(bands):
    """Takes from each band (N, n) the mean of itself and its neighbors; the first and the last stand for those beyond."""
    ripple, last = bands.copy(), bands.shape[1] - 1
    for n in range(len(bands)):
        for b in range(last + 1):
            for k in range(b - NEIGHBOURS, b + NEIGHBOURS + 1):
                ripple[n, b] -= bands[n, min(max(k, 0), last)] / (2 * NEIGHBOURS + 1)
    return ripple


@compiled
def _templates(pitches, bank, weight, bin_width, window):
    """Returns the ripples (n, pitches) of harmonic spectra in bands (n, bins), each of length 1; `window` is in seconds."""
    logs, spectrum = np.zeros((len(pitches), len(bank))), np.zeros(bank.shape[1])
    for p in range(len(pitches)):
        for i in range(bank.shape[1]):
            spectrum[i], h = 0.0, 1
            while h * pitches[p] < 2.0 * RIPPLE_BELOW:
                x = (i * bin_width - h * pitches[p]) * window
                spectrum[i] = max(spectrum[i], abs(_sinc(x) + 0.5 * _sinc(x - 1.0) + 0.5 * _sinc(x + 1.0)))
                h += 1
            spectrum[i] += 0.02
        for b in range(len(bank)):
            total = 0.0
            for i in range(bank.shape[1]):
                total += bank[b, i] * spectrum[i]
            logs[p, b] = log(total / weight[b])
    ripple = _without_local_mean(logs)
    for p in range(len(pitches)):
        square = 0.0
        for b in range(len(bank)):
            square += ripple[p, b] * ripple[p, b]
        for b in range(len(bank)):
            ripple[p, b] /= math.sqrt(square)
    return ripple.T.copy()


@compiled
def _comb(ripple, templates, log_pitches, sample_rate, half_width, strongest):
    """Returns b (N,), lags (N, J) and weights b * h (N, J) of ripples (N, n)."""
    blocks, taps, width = len(ripple), 2 * half_width + 2, half_width + 1
    strength, lags, weights = np.zeros(blocks), np.zeros((blocks, taps), np.int64), np.zeros((blocks, taps))
    scores = np.zeros((blocks, len(log_pitches)))
    add_products(scores, ripple, templates)
    for n in range(blocks):
        best, square = 0, 1.0
        for p in range(len(log_pitches)):
            if scores[n, p] > scores[n, best]:
                best = p
        best = min(max(best, 1), len(log_pitches) - 2)
        below, peak, above = scores[n, best - 1], scores[n, best], scores[n, best + 1]
        shift = min(max(0.5 * (above - below) / max(2.0 * peak - below - above, 1e-9), -0.5), 0.5)
        period = sample_rate * exp(-(log_pitches[best] + shift * (log_pitches[1] - log_pitches[0])))
        for b in range(ripple.shape[1]):
            square += ripple[n, b] * ripple[n, b]
        strength[n] = strongest * min(max((peak / math.sqrt(square) - 0.4) / 0.45, 0.0), 1.0)
        total = 0.0
        for j in range(taps):
            lags[n, j] = math.floor(period) - half_width + j
            weights[n, j] = _raised_cosine(lags[n, j] - period, width)
            total += weights[n, j]
        for j in range(taps):
            weights[n, j] = strength[n] * (weights[n, j] / total)
    return strength, lags, weights
