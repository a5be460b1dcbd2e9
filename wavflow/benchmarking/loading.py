"""Reading: how much audio the loader of a training hands out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from wavflow.audio import audio_rate
from wavflow.benchmarking.ceilings import Ceilings
from wavflow.data import AudioDataModule
from wavflow.data.shards import ShardCrops

BATCHES = 8  # of a repeat


def loading(data: AudioDataModule, ceilings: Ceilings) -> list[dict[str, Any]]:
    """Draws training batches: crops at random places of random files or shards, read, resampled, and their mels computed."""
    loader = data.train_dataloader()
    batches = iter(loader)
    timing = ceilings.stopwatch(lambda: exhaust(itertools.islice(batches, BATCHES)))
    seconds = BATCHES * data.batch_size * data.segment_length / data.mel.sample_rate
    cores = max(1, data.num_workers)
    row = {
        **source(data, loader.dataset),
        "batch": (data.batch_size, data.segment_length),
        "workers": data.num_workers,
        "audio seconds/s": seconds / timing.median,
        "x real time per core": seconds / timing.median / cores,
    }
    return [row | timing.row]


def source(data: AudioDataModule, crops: Any) -> dict[str, Any]:
    """Tells what is read: how many files, and of what kind."""
    if isinstance(crops, ShardCrops):
        mels = "with mels" if next(crops.shards.pieces())["mel"].size else "mels computed"
        return {"files": len(crops.shards.files), "format": f"shards, {data.mel.sample_rate} Hz, {mels}"}
    first = data.train_files[0]
    return {"files": len(data.train_files), "format": f"{first.suffix[1:]}, {audio_rate(first)} Hz"}


def exhaust(items: Iterable[Any]) -> None:
    """Takes all items."""
    for _ in items:
        pass
