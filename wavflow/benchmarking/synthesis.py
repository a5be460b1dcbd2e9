"""How fast a model samples audio, and how soon the first of it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from wavflow.benchmarking.timing import Meter, Row, inputs, operations_per_sample, times
from wavflow.speakers import first_speaker
from wavflow.synthesis.parallel import dtypes
from wavflow.synthesis.student import CONTEXT
from wavflow.vocoder import PASSES, Vocoder

SHORT = 512  # samples, at most, for a teacher in PyTorch, which samples some hundred in a second

Sample = Callable[[Tensor, Tensor], Iterable[Tensor]]  # mel and noise to audio, (B, T) whole or in chunks


class Engine(NamedTuple):
    """A way to sample. `stream` yields the same in the smallest chunks: the first of them is the first audio."""

    sample: Sample
    dtype: torch.dtype = torch.float32
    stream: Sample | None = None


def engines(vocoder: Vocoder, passes: int) -> dict[str, Engine]:
    """Returns the ways to sample from a vocoder on its device, with `passes` of the equalizer."""
    sample = partial(vocoder.sample, speaker=first_speaker(vocoder), passes=passes)
    found = {"PyTorch, float32": Engine(partial(sample, fast=False))}
    for dtype in dtypes() if vocoder.engine() else ():
        name = str(dtype).removeprefix("torch.")
        found[f"compiled, {name}"] = Engine(partial(sample, dtype=dtype), dtype)
        if vocoder.draws_in_parallel:
            stream = partial(vocoder.stream, speaker=first_speaker(vocoder), passes=passes, dtype=dtype)
            found[f"compiled, streamed, {name}"] = Engine(stream, dtype, partial(stream, chunk_frames=1))
    return found


def synthesis(name: str, vocoder: Vocoder, seconds: float, meter: Meter) -> list[Row]:
    """Samples a clip in each way: without the equalizer, and with it."""
    rows, operations = [], operations_per_sample(vocoder)
    for passes in (0, PASSES) if vocoder.mel.n_mels else (0,):
        for engine_name, engine in engines(vocoder, passes).items():
            slow = engine_name.startswith("PyTorch") and not vocoder.draws_in_parallel
            if slow and passes:
                continue
            mel, noise = inputs(vocoder, min(SHORT if slow else float("inf"), seconds * vocoder.sample_rate))
            taken = meter(partial(_exhaust, engine.sample, mel, noise))
            made = noise.shape[-1] / vocoder.sample_rate
            row = {
                "model": name,
                "engine": engine_name,
                "passes": passes,
                "seconds of audio": made,
                "x real time": made / taken.median,
                "samples/s": noise.shape[-1] / taken.median,
            }
            if engine.stream:
                look_ahead = CONTEXT * vocoder.hop_length + vocoder.equalizer.look_ahead(passes)
                row["first audio ms"] = 1000.0 * meter(partial(_first, engine.stream, mel, noise)).median
                row["look-ahead ms"] = 1000.0 * look_ahead / vocoder.sample_rate
            if not passes:
                row["% of peak"] = 100.0 * noise.numel() * operations / taken.median / meter.peak(engine.dtype)
            rows.append(row | times(taken))
    return rows


def _exhaust(sample: Sample, mel: Tensor, noise: Tensor) -> None:
    for _ in sample(mel, noise):
        pass


def _first(sample: Sample, mel: Tensor, noise: Tensor) -> Tensor:
    return next(iter(sample(mel, noise)))
