"""Reading: how much audio the loader of a training hands out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from wavflow.benchmarking.ceilings import Ceilings
from wavflow.data import AudioDataModule

BATCHES = 8  # of a repeat


def loading(data: AudioDataModule, ceilings: Ceilings) -> list[dict[str, Any]]:
    """Draws training batches: crops at random places of random files or shards, read, resampled, and their mels computed."""
    files, kind = data.contents
    batches = iter(data.train_dataloader())
    timing = ceilings.stopwatch(lambda: exhaust(itertools.islice(batches, BATCHES)))
    seconds = BATCHES * data.batch_size * data.segment_length / data.mel.sample_rate
    cores = max(1, data.num_workers)
    row = {
        "files": files,
        "format": kind,
        "batch": (data.batch_size, data.segment_length),
        "workers": data.num_workers,
        "audio seconds/s": seconds / timing.median,
        "x real time per core": seconds / timing.median / cores,
    }
    return [row | timing.row]


def exhaust(items: Iterable[Any]) -> None:
    """Takes all items."""
    for _ in items:
        pass
