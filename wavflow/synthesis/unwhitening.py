"""What a student does by the mel alone, compiled: its pulses, and the two recursions that undo the whitening, in float64.

The equations are those of `wavflow.flows.harmonic_source`, `linear_prediction` and `pitch_prediction`, and their constants are
used. Sums go in one order however many frames come at once, so that a stream is the same as the whole to the last bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from wavflow.flows.linear_prediction import LARGEST_FALL
from wavflow.flows.whitening import Whitening
from wavflow.kernels.compiling import compiled
from wavflow.kernels.recursions import recur

_LOG2_E = 1.0 / math.log(2.0)
_LN2 = 1453635.0 / 2**21, -1.9046542999577678785e-9  # their sum is log(2); k times the first one is exact
_TAYLOR = tuple(1.0 / math.factorial(k) for k in range(13))  # of exp


class Filters(NamedTuple):
    """What the filters are made of; without pitch, the arrays from `flatten` on are empty."""

    kernel: np.ndarray  # (3, blocks of a frame)
    block_length: int
    band: np.ndarray  # (told,) the band before each bin that the mel tells of; -1 without a mel
    weights: np.ndarray  # (2, told) of that band and the next one
    spectrum_offset: np.ndarray  # (told,)
    floor: float  # power
    to_autocorrelation: np.ndarray  # (told, order + 1)
    rest: np.ndarray  # (4, order + 1) autocorrelation of the other bins, see `predictor`
    flatten: np.ndarray  # (bands, bands)
    log_weight: np.ndarray  # (bands,)
    templates: np.ndarray  # (bands, pitches)
    log_pitches: np.ndarray  # (pitches,)
    response: np.ndarray  # (told,) |H|^2 of the comb's kernel
    sample_rate: float
    strongest: float
    smear: int  # how far the comb's kernel reaches, samples
    longest_lag: int


def filters(whitening: Whitening) -> Filters:
    """Collects the constants of a whitening."""
    prediction = whitening.transforms[0]
    pitch, n_bins = prediction.pitch, len(prediction.to_autocorrelation)
    told, response = len(prediction.spectrum_offset), np.zeros(n_bins)
    of_pitch: tuple[Any, ...] = np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0)), np.zeros(0), response[:told], 1.0, 0.0, 0, 0
    if pitch is not None:
        response = _array(1.0 - pitch.innovation_share(pitch.templates.new_ones(1, 1), n_bins)[0, 0])
        arrays = map(_array, [pitch.flatten, pitch.log_weight, pitch.templates.T, pitch.log_pitches])
        of_pitch = (*arrays, response[:told], float(pitch.sample_rate), pitch.strongest, pitch.half_width, pitch.longest_lag)
    to_spectrum, to_autocorrelation = _array(prediction.to_spectrum), _array(prediction.to_autocorrelation)
    band, weights = np.full(told, -1), np.zeros((2, told))
    if len(to_spectrum):
        to_spectrum = np.concatenate([to_spectrum, np.zeros((1, told))])  # a band after the last one
        band = (to_spectrum != 0).argmax(axis=0)
        weights = np.stack([to_spectrum[band, np.arange(told)], to_spectrum[band + 1, np.arange(told)]])
    extrapolation, others = _array(prediction.extrapolation), to_autocorrelation[told:]
    response = response[told:]
    rest = [scale @ others for scale in (extrapolation, extrapolation * response, np.ones_like(response), response)]
    return Filters(
        _array(prediction.kernel),
        prediction.block_length,
        band,
        weights,
        _array(prediction.spectrum_offset),
        prediction.floor**2,
        to_autocorrelation[:told].copy(),
        np.stack(rest),
        *of_pitch,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().double().cpu().numpy())


@compiled
def pitches(filters: Filters, mels: np.ndarray) -> np.ndarray:
    """Returns the period in samples and b of each block, (F * blocks of a frame, 2); zeros without pitch; mels as below."""
    per_frame, log_mel = filters.kernel.shape[1], np.empty(mels.shape[1])
    found = np.zeros(((len(mels) - 2) * per_frame, 2))
    for n in range(len(found) if filters.longest_lag else 0):
        at_block(filters.kernel[:, n % per_frame], mels, n // per_frame + 1, log_mel)
        found[n, 0], found[n, 1] = read_pitch(filters, log_mel)
    return found


@compiled
def unwhiten(
    filters: Filters,
    mels: np.ndarray,
    pitch: np.ndarray,
    x: np.ndarray,
    log_scale: np.ndarray,
    comb: np.ndarray,
    past: np.ndarray,
) -> None:
    """Unwhitens whitened audio by the filters of its frames, where it lies.

    Args:
        filters: See there.
        mels: (F + 2, n_mels) log-mels from the frame before the first one to that after the last.
        pitch: Of each block, see `pitches`.
        x: (F * hop_length,) float32 whitened audio; is overwritten by the audio.
        log_scale: As x; the log of the gain is added to each sample's.
        comb: The last `longest_lag` samples before the envelope's filter, float64; is brought up to date, as `past` is.
        past: (order,) the last samples of the audio, float64, the latest last.
    """
    kernel, length, order = filters.kernel, filters.block_length, len(past)
    n_mels, taps, memory = mels.shape[1], 2 * filters.smear + 2, len(comb)
    log_mel, coefficients, weights = np.empty(n_mels), np.empty(order), np.empty(taps)
    voice, audio = np.empty(memory + len(x)), np.empty(order + len(x))
    voice[:memory], audio[:order] = comb, past
    t = 0
    for frame in range(1, len(mels) - 1):
        for block in range(kernel.shape[1]):
            at_block(kernel[:, block], mels, frame, log_mel)
            period, strength = pitch[t // length]
            lag = comb_weights(filters, period, strength, weights) if strength > 0.0 else 0
            for band in range(n_mels):
                nearby = max(mels[frame - 1, band], mels[frame, band], mels[frame + 1, band])
                log_mel[band] = max(log_mel[band], nearby - LARGEST_FALL)
            gain = predictor(filters, log_mel, strength, coefficients)
            end = t + length
            voice[memory + t : memory + end] = x[t:end]
            if strength > 0.0:
                recur(voice, memory + t, length, lag, weights)
            audio[order + t : order + end] = voice[memory + t : memory + end] * gain
            recur(audio, order + t, length, 1, coefficients)
            x[t:end] = audio[order + t : order + end]
            log_scale[t:end] += np.float32(math.log(gain))
            t = end
    comb[:], past[:] = voice[t : t + memory], audio[t : t + order]


@compiled
def add_pulses(
    filters: Filters, pitch: np.ndarray, pulses: float, width: int, phase: float, z: np.ndarray, log_sigma: np.ndarray
) -> float:
    """Adds the pulses of a harmonic source to noise, see `HarmonicSource`; returns the phase after it, in periods.

    Args:
        filters: See there.
        pitch: Of each block, see `pitches`.
        pulses: Their share of a voice.
        width: Of the short ones, in samples.
        phase: Before the first sample, in periods.
        z: (F * hop_length,) float32 noise; is overwritten.
        log_sigma: As z, is written.
    """
    t, wide = 0, filters.smear + 1
    for period, strength in pitch:
        share = pulses * strength * (2.0 - strength)
        height, taken = math.sqrt(period * share), 1.0 - math.sqrt((1.0 - strength) / (1.0 + strength))
        sigma, log_share = math.sqrt(1.0 - share), 0.5 * math.log1p(-share)
        for i in range(filters.block_length):
            turn = phase + i / period
            distance = abs(turn - np.rint(turn)) * period
            pulse = 0.0
            if distance < wide:
                pulse = height * (raised_cosine(distance, width) / width - taken * raised_cosine(distance, wide) / wide)
            z[t], log_sigma[t] = pulse + sigma * z[t], log_share
            t += 1
        phase += filters.block_length / period
    return phase


@compiled
def at_block(kernel: np.ndarray, mels: np.ndarray, frame: int, log_mel: np.ndarray) -> None:
    """Writes the log-mel of a block, between those of its frame and the two around it."""
    for band in range(len(log_mel)):
        log_mel[band] = kernel[0] * mels[frame - 1, band] + kernel[1] * mels[frame, band] + kernel[2] * mels[frame + 1, band]


@compiled
def predictor(filters: Filters, log_mel: np.ndarray, strength: float, coefficients: np.ndarray) -> float:
    """Writes the linear predictor of a log-mel, see `LinearPrediction.predictor`; returns the gain."""
    told, order, comb = len(filters.spectrum_offset), len(coefficients), strength * strength
    power, upper_half = filters.spectrum_offset.copy(), 0.0
    if filters.band[0] >= 0:
        for i in range(told):
            band = filters.band[i]
            after = min(band + 1, len(log_mel) - 1)
            power[i] += log_mel[band] * filters.weights[0, i] + log_mel[after] * filters.weights[1, i]
    exponentials(power)
    for i in range(told):
        if i >= told // 2:
            upper_half += power[i] / (told - told // 2)
        power[i] = (power[i] + filters.floor) * (1.0 - comb * filters.response[i])
    # Beyond what is told: (upper_half * extrapolation + floor) * (1 - comb * response), summed once and for all.
    r = upper_half * (filters.rest[0] - comb * filters.rest[1]) + filters.floor * (filters.rest[2] - comb * filters.rest[3])
    to_r = filters.to_autocorrelation
    for i in range(0, told - 3, 4):
        for k in range(order + 1):
            r[k] += (power[i] * to_r[i, k] + power[i + 1] * to_r[i + 1, k]) + (
                power[i + 2] * to_r[i + 2, k] + power[i + 3] * to_r[i + 3, k]
            )
    for i in range(told - told % 4, told):
        for k in range(order + 1):
            r[k] += power[i] * to_r[i, k]
    error, before = r[0], np.empty(order)  # Levinson-Durbin
    for i in range(order):
        left = r[i + 1]
        for k in range(i):
            left -= coefficients[k] * r[i - k]
        reflection = left / error
        before[:i] = coefficients[:i]
        for k in range(i):
            coefficients[k] = before[k] - reflection * before[i - 1 - k]
        coefficients[i] = reflection
        error *= 1.0 - reflection * reflection
    for k in range(order):
        coefficients[k] = np.float32(coefficients[k])  # as the flow keeps them
    return math.sqrt(error)


@compiled
def exponentials(x: np.ndarray) -> None:
    """Replaces all x, float64 between -700 and 700, by exp(x): `2^k exp(r)`, r at most log(2) / 2, in whole vectors."""
    exponents = np.empty(len(x), np.int64)
    for i in range(len(x)):
        k = np.floor(x[i] * _LOG2_E + 0.5)
        r = (x[i] - k * _LN2[0]) - k * _LN2[1]
        p = _TAYLOR[12]
        for n in range(11, 1, -1):
            p = p * r + _TAYLOR[n]
        x[i] = (p * r + 1.0) * r + 1.0
        exponents[i] = (np.int64(k) + 1023) << 52
    scale = exponents.view(np.float64)
    for i in range(len(x)):
        x[i] *= scale[i]


@compiled
def read_pitch(filters: Filters, log_mel: np.ndarray) -> tuple[float, float]:
    """Returns the period in samples and b of a log-mel, see `MelPitch`."""
    bands, pitches = filters.templates.shape
    ripple, scores = np.zeros(bands), np.zeros(pitches)
    for i in range(bands):
        for j in range(bands):
            ripple[j] += (log_mel[i] - filters.log_weight[i]) * filters.flatten[i, j]
    norm = 1.0
    for i in range(bands):
        norm += ripple[i] * ripple[i]
        for j in range(pitches):
            scores[j] += ripple[i] * filters.templates[i, j]
    best = min(max(np.argmax(scores), 1), pitches - 2)
    below, peak, above = scores[best - 1], scores[best], scores[best + 1]
    bend = max(2.0 * peak - below - above, 1e-9)
    shift = min(max(0.5 * (above - below) / bend, -0.5), 0.5)
    step = filters.log_pitches[1] - filters.log_pitches[0]
    period = filters.sample_rate * math.exp(-(filters.log_pitches[best] + shift * step))
    return period, filters.strongest * min(max((peak / math.sqrt(norm) - 0.4) / 0.45, 0.0), 1.0)


@compiled
def comb_weights(filters: Filters, period: float, strength: float, weights: np.ndarray) -> int:
    """Writes the comb's weights b * h, see `MelPitch.taps`; returns the shortest lag that they stand for."""
    first, total = math.floor(period) - filters.smear, 0.0
    for j in range(len(weights)):
        weights[j] = raised_cosine(first + j - period, filters.smear + 1)
        total += weights[j]
    for j in range(len(weights)):
        weights[j] = np.float32(strength * weights[j] / total)
    return first


@compiled
def raised_cosine(distance: float, width: int) -> float:
    """See `wavflow.flows.pitch_prediction.raised_cosine`."""
    return 0.5 + 0.5 * math.cos(math.pi * min(max(distance / width, -1.0), 1.0))
