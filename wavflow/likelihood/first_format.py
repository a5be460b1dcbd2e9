"""Reads files of the first version, whose probabilities were computed by torch and by fused operations.

What those tell to the last bit depends on the processor and the versions of torch and Numba, so such a file is read for certain
on the kind of machine alone that made it. Nothing writes this version any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch

from wavflow.likelihood.levels import LevelDensity
from wavflow.likelihood.mel_code import BELOW, LOWER, SAME, START, UPPER, fine
from wavflow.synthesis.coding_kernels import HIGHEST, LOWEST
from wavflow.vocoder import Vocoder


def constriction() -> ModuleType:
    """Imports the library.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise ImportError(
            "`input` is of the first version, whose range coder constriction is not installed: pip install 'wavflow[compress]'."
        ) from error
    return constriction


def decode_first(header: dict, words: bytes, teacher: Vocoder, progress: Callable[[int], None]) -> np.ndarray:
    """Returns the int16 samples (channels, T); the wrong ones, or some, where this machine computes otherwise."""
    pcm = np.zeros((header["channels"], header["samples"]), np.int16)
    read = constriction().stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32)).decode
    frames = -(-header["samples"] // teacher.hop_length)
    try:
        with _one_thread():
            for channel in pcm:
                grid = np.zeros((teacher.mel.n_mels, -(-frames // header["mel_stride"])), np.int32)
                read_mel(read, grid, *header["mel_range"])
                mel = torch.from_numpy(fine(grid, header["mel_step"], header["mel_stride"], frames))[None].float()
                _read_samples(read, channel, LevelDensity(teacher, mel, header["speaker"]), progress)
    except AssertionError:  # constriction's, of words that no encoder writes
        pass
    return pcm


def read_mel(read: Callable, grid: np.ndarray, low: int, high: int) -> None:
    """Fills a grid (n_mels, F), see `wavflow.likelihood.mel_code.code_mel`; `read` returns the next symbol of a model."""
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
            grid[b, f] = read(family(low, max(high, low + 1), expected, 0.1 + 0.4 * (strayed[b] + nearby)))
            now[b] = float(grid[b, f])
            distance = abs(now[b] - expected)
            strayed[b] += 0.1 * (distance - strayed[b])
            nearby += 0.5 * (distance - nearby)
        before = now


def _read_samples(read: Callable, samples: np.ndarray, density: LevelDensity, progress: Callable[[int], None]) -> None:
    model = constriction().stream.model.CustomModel(density.cdf, density.quantile, LOWEST, HIGHEST)
    level = 0
    for t in range(len(samples)):
        density.advance(level)
        samples[t] = level = read(model)
        if t % 1024 == 1023 or t == len(samples) - 1:
            progress(t % 1024 + 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums that are split over threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
