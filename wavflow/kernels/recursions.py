"""Linear recursions, compiled: one sample after another, forward and, for gradients, transposed."""

from __future__ import annotations

import numpy as np

from wavflow.kernels.compiling import compiled


@compiled
def recur(signal: np.ndarray, start: int, length: int, lag: int, weights: np.ndarray) -> None:
    """Adds `sum_j weights[j] * signal[t - lag - j]` to each of `length` samples from `start` on, in order."""
    fours = len(weights) // 4 * 4
    for t in range(start, start + length):
        a, b, c, d = signal[t], 0.0, 0.0, 0.0  # four sums, so that no addition waits for the one before
        for j in range(0, fours, 4):
            a += weights[j] * signal[t - lag - j]
            b += weights[j + 1] * signal[t - lag - j - 1]
            c += weights[j + 2] * signal[t - lag - j - 2]
            d += weights[j + 3] * signal[t - lag - j - 3]
        for j in range(fours, len(weights)):
            a += weights[j] * signal[t - lag - j]
        signal[t] = (a + b) + (c + d)


@compiled
def recur_in_blocks(signals: np.ndarray, lags: np.ndarray, weights: np.ndarray, before: int, length: int) -> None:
    """Solves `wavflow.flows.recursion.recursion` where the signals lie.

    Args:
        signals: (B, before + N * length) float64, their first `before` samples zeros.
        lags: (B, N).
        weights: (B, N, J) float64.
        before: At least the largest lag + J.
        length: Of a block.
    """
    for b in range(len(signals)):
        for n in range(lags.shape[1]):
            recur(signals[b], before + n * length, length, lags[b, n], weights[b, n])


@compiled
def recur_back_in_blocks(signals: np.ndarray, lags: np.ndarray, weights: np.ndarray, before: int, length: int) -> None:
    """As `recur_in_blocks`, transposed: from the last sample on, each one adds to those that it is made of."""
    for b in range(len(signals)):
        signal = signals[b]
        for n in range(lags.shape[1] - 1, -1, -1):
            for t in range(before + (n + 1) * length - 1, before + n * length - 1, -1):
                for j in range(weights.shape[2]):
                    signal[t - lags[b, n] - j] += weights[b, n, j] * signal[t]
