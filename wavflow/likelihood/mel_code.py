"""The mel as side information of coded audio: averaged over some frames, rounded to steps, and coded by its neighbours.

A mel in full would cost .9 bits per sample of audio. Coarser, it costs less and tells the teacher less: on LJSpeech the sum
of both is least near pairs of frames and steps of one nat, at .23 + 8.34 bits where the exact mel allows 8.27.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wavflow.likelihood.range_coding import Coder, constriction

# Least squares on LJSpeech at pairs of frames: the band in the frame before, its lower and its upper neighbour there, and the
# lower neighbour now. They add up to 1, so that a level of any unit is predicted as itself.
SAME, LOWER, UPPER, BELOW = 0.395, -0.335, 0.18, 0.76
START = 1.0  # of the mean deviation from the prediction, in steps


def coarse(mel: Tensor, step: float, stride: int) -> np.ndarray:
    """Returns whole numbers of steps (n_mels, ceil(F / stride)) of a log-mel (1, n_mels, F): the mean of `stride` frames."""
    if not mel.shape[1]:
        return np.zeros((0, -(-mel.shape[2] // stride)), np.int32)
    means = functional.avg_pool1d(mel, stride, ceil_mode=True, count_include_pad=False)
    return torch.round(means[0].double() / step).to(torch.int32).numpy()


def fine(grid: np.ndarray, step: float, stride: int, frames: int) -> Tensor:
    """Returns the mel (1, n_mels, frames), float32, that a grid of whole steps tells: linear between its columns."""
    mel = torch.from_numpy(step * grid.astype(np.float64))[None]
    if not len(grid):
        return mel.new_zeros(1, 0, frames, dtype=torch.float32)
    if stride > 1:
        mel = functional.interpolate(mel, scale_factor=stride, mode="linear", align_corners=False)
    return mel[..., :frames].float()


def code_mel(coder: Coder, grid: np.ndarray, low: int, high: int) -> None:
    """Codes a grid (n_mels, F) of numbers from `low` to `high`, frame by frame: writes it, or fills it as it reads.

    Each number is Laplace-distributed around what its neighbours tell, as wide as the last ones have strayed from that.
    """
    bands, frames = grid.shape
    before, strayed = [float(high + low) / 2] * bands, [START] * bands
    family = constriction().stream.model.QuantizedLaplace
    for f in range(frames):
        now, nearby = [0.0] * bands, START
        for b in range(bands):
            if b == 0:
                expected = before[0]
            else:
                expected = SAME * before[b] + LOWER * before[b - 1] + UPPER * before[min(b + 1, bands - 1)] + BELOW * now[b - 1]
            model = family(low, max(high, low + 1), expected, 0.1 + 0.4 * (strayed[b] + nearby))
            grid[b, f] = coder(int(grid[b, f]), model)
            now[b] = float(grid[b, f])
            distance = abs(now[b] - expected)
            strayed[b] += 0.1 * (distance - strayed[b])
            nearby += 0.5 * (distance - nearby)
        before = now
