"""What the mel equalizer does between its two Fourier transforms, compiled: torch's gathers take five times as long."""

from __future__ import annotations

import math

import numpy as np

from wavflow.kernels import VECTOR
from wavflow.kernels.compiling import compiled
from wavflow.kernels.vectors import exp_twice, fill, load, store


@compiled
def correct(
    spectra: np.ndarray,
    mel: np.ndarray,
    runs: np.ndarray,
    weights: np.ndarray,
    above: np.ndarray,
    fraction: np.ndarray,
    told: int,
    power_floor: np.float32,
    floor: np.float32,
    largest: np.float32,
    factor: np.float32,
) -> None:
    """Replaces the spectra S of frames by `S (exp(gain) - 1)`, see `MelEqualizer`.

    Args:
        spectra: (F, bins, 2) float32: real and imaginary part.
        mel: (n_mels, F) float32, the log-mel to reach.
        runs: (n_mels, width) the bins of each band.
        weights: (n_mels, width) float32 of these bins; zeros at the end of a shorter run.
        above: (bins,) the band after each bin.
        fraction: (bins,) float32, how far the bin lies from the band before to that after it.
        told: Bins that the mel tells of; the others get no gain.
        power_floor: Is added to the power of each bin.
        floor: The least magnitude of a band.
        largest: The largest gain, nats.
        factor: Multiplies what a band is off.
    """
    bins, one, half = spectra.shape[1], fill(np.float32(1.0)), fill(np.float32(0.5))
    n_mels, width = runs.shape
    magnitude, off = np.empty(bins, np.float32), np.empty(n_mels, np.float32)
    gain = np.zeros(bins + VECTOR, np.float32)
    for f in range(spectra.shape[0]):
        for i in range(bins):
            magnitude[i] = math.sqrt(spectra[f, i, 0] * spectra[f, i, 0] + spectra[f, i, 1] * spectra[f, i, 1] + power_floor)
        for band in range(n_mels):
            total = np.float32(0.0)
            for j in range(width):
                if weights[band, j] == 0.0 and j > 0:
                    break
                total += weights[band, j] * magnitude[runs[band, j]]
            off[band] = min(max(factor * (mel[band, f] - math.log(max(total, floor))), -largest), largest)
        for i in range(told):
            gain[i] = off[above[i] - 1] * (np.float32(1.0) - fraction[i]) + off[above[i]] * fraction[i]
        for i in range(0, told, VECTOR):
            store(gain, i, exp_twice(half * load(gain, i)) - one)
        for i in range(bins):
            change = gain[i] if i < told else np.float32(0.0)
            spectra[f, i, 0] *= change
            spectra[f, i, 1] *= change
