"""How much audio the loader of a training hands out."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from wavflow.benchmarking.timing import Meter, Row, times

if TYPE_CHECKING:
    from wavflow.data import AudioDataModule

BATCHES = 8  # of one call


def loading(data: AudioDataModule, meter: Meter) -> list[Row]:
    """Takes training batches: crops of random files or shards, read, resampled, and their mels computed."""
    files, kind = data.contents
    batches = iter(data.train_dataloader())
    taken = meter(lambda: list(itertools.islice(batches, BATCHES)))
    seconds = BATCHES * data.batch_size * data.segment_length / data.mel.sample_rate
    row = {
        "files": files,
        "format": kind,
        "batch": (data.batch_size, data.segment_length),
        "workers": data.num_workers,
        "audio seconds/s": seconds / taken.median,
        "x real time per core": seconds / taken.median / max(1, data.num_workers),
    }
    return [row | times(taken)]
