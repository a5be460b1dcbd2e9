"""The mel as side information of coded audio: averaged over some frames, rounded to steps, and coded by its neighbors.

A mel in full would cost .9 bits per sample of audio. Coarser, it costs less and tells the teacher less: on LJSpeech the sum
of both is least near pairs of frames and steps of one nat, at .23 + 8.34 bits where the exact mel allows 8.27.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wavflow.kernels.compiling import compiled
from wavflow.likelihood.range_coding import LAPLACE, Coder, code

# Least squares on LJSpeech at pairs of frames: the band in the frame before, its lower and its upper neighbor there, and the
# lower neighbor now. They add up to 1, so that a level of any unit is predicted as itself.
SAME, LOWER, UPPER, BELOW = 0.395, -0.335, 0.18, 0.76
START = 1.0  # of the mean deviation from the prediction, in steps


def coarse(mel: Tensor, step: float, stride: int) -> np.ndarray:
    """Returns whole numbers of steps (n_mels, ceil(F / stride)) of a log-mel (1, n_mels, F): the mean of `stride` frames."""
    if not mel.shape[1]:
        return np.zeros((0, -(-mel.shape[2] // stride)), np.int32)
    means = functional.avg_pool1d(mel, stride, ceil_mode=True, count_include_pad=False)
    return torch.round(means[0].double() / step).to(torch.int32).numpy()


def fine(grid: np.ndarray, step: float, stride: int, frames: int) -> np.ndarray:
    """Returns the mel (n_mels, frames), float64, that a grid of whole steps tells: linear between its columns."""
    position = np.maximum((np.arange(frames) + 0.5) / stride - 0.5, 0.0)
    left = position.astype(np.int64)
    right, fraction = np.minimum(left + 1, grid.shape[1] - 1), position - left
    return step * ((1.0 - fraction) * grid[:, left] + fraction * grid[:, right])


@compiled
def code_mel(coder: Coder, grid: np.ndarray, low: int, high: int) -> None:
    """Codes a grid (n_mels, F) of numbers from `low` to `high`, frame by frame: writes it, or fills it as it reads.

    Each number is Laplace-distributed around a prediction from its neighbors, as wide as the last predictions were off.
    """
    bands, frames = grid.shape
    before, now, strayed = np.full(bands, 0.5 * (high + low)), np.zeros(bands), np.full(bands, START)
    laplace = np.ones((3, 1))
    for f in range(frames):
        nearby = START
        for b in range(bands):
            expected = before[0]
            if b:
                expected = SAME * before[b] + LOWER * before[b - 1] + UPPER * before[min(b + 1, bands - 1)] + BELOW * now[b - 1]
            laplace[1, 0], laplace[2, 0] = expected, 0.1 + 0.4 * (strayed[b] + nearby)
            grid[b, f] = code(coder, grid[b, f], low, high, laplace, LAPLACE)
            now[b] = grid[b, f]
            distance = abs(now[b] - expected)
            strayed[b] += 0.1 * (distance - strayed[b])
            nearby += 0.5 * (distance - nearby)
        before, now = now, before
