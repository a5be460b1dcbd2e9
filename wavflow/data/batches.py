"""The base of all data modules: loaders, which process reads which items, and where a resumed training goes on."""

import signal
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from wavflow.data.datasets import check_segment_length
from wavflow.data.split import Split
from wavflow.mel import MelSpectrogram

STOPS = [each for each in signal.Signals if each.name in ("SIGINT", "SIGTERM", "SIGUSR1")]
"""Signals that ask a training to save and end: Ctrl-C, the usual request to end, and SLURM's usual warning."""


class Batches(pl.LightningDataModule):
    """Random crops without end to train on; whole clips, one per batch, to validate and test with.

    Batch i, counted over the whole training, is always the same, so a resumed training goes on as if it had not stopped.

    Args:
        mel: The spectrogram that conditions the models; its sample rate is the data's.
        segment_length: Of a crop, in samples, a multiple of the mel's `hop_length`.
        batch_size: Crops per training batch.
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the crops and the noise.
        max_clip_seconds: Validation and test clips are cut there; `None` keeps them whole.
        dequantize: Whether to add uniform noise of one 16-bit step to the audio.
    """

    collate: Callable | None = None  # makes a batch of items; None for torch's own way

    def __init__(
        self,
        mel: MelSpectrogram,
        segment_length: int = 8192,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        max_clip_seconds: float | None = 10.0,
        dequantize: bool = True,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value}.")
        check_segment_length(segment_length, mel)
        self.mel = mel
        self.segment_length, self.batch_size, self.num_workers = segment_length, batch_size, num_workers
        self.seed, self.max_clip_seconds, self.dequantize = seed, max_clip_seconds, dequantize
        self.ids: dict[str, int] | None = None
        self._crops: int | None = None  # read before the training was stopped, where one is resumed
        self._began: tuple[int, int] | None = None  # batches and crops read before this process began

    @property
    @abstractmethod
    def split(self) -> Split:
        """The names of the files by part, stored with a run and its model; empty where unknown."""

    @property
    @abstractmethod
    def speakers(self) -> list[str]:
        """Names of all speakers, sorted; empty where the data names none."""

    @property
    @abstractmethod
    def contents(self) -> tuple[int, str]:
        """The number of files or shards to train on, and their kind."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The amount of data and its split, as a sentence."""

    @property
    def remarks(self) -> list[str]:
        """Warnings about unusual data, one sentence each."""
        return []

    def follow(self, stored: Mapping[str, Any], must_fit: bool = False) -> None:
        """Splits as an earlier run did, unless the split is fixed, as that of shards is."""

    def number_speakers(self, names: Sequence[str]) -> None:
        """Numbers the speakers by their places in `names`; from then on each item holds its speaker's number as `speaker`.

        Raises:
            ValueError: The data names no speakers, or one that is not among `names`.
        """
        if not self.speakers:
            raise ValueError("`data` names no speakers, but the model takes one: take data=folder with data.table=<CSV file>.")
        if unknown := set(self.speakers) - set(names):
            raise ValueError(
                f"`data` may name no speakers but the model's, {', '.join(names)}, got {', '.join(sorted(unknown))} too."
            )
        self.ids = {name: i for i, name in enumerate(names)}

    def state_dict(self) -> dict[str, int]:
        """Returns how many crops all processes have read; crops, because a resumed training may have another batch size."""
        return {} if self._began is None else {"crops": self._began[1] + (self._batches() - self._began[0]) * self._at_once}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._crops = state_dict["crops"]

    def order(self) -> DistributedSampler:
        """Returns the numbers of the crops that this process reads, from the first that training has not read yet."""
        read = self._batches()
        self._began = read, read * self._at_once if self._crops is None else self._crops
        return Order(*self._place(), self._began[1])

    def options(self, speakers: Any) -> dict[str, Any]:
        """Returns the options of all data sets, see `Items`."""
        return {"seed": self.seed, "dequantize": self.dequantize, "speakers": speakers}

    @abstractmethod
    def clips(self, part: str) -> Any:
        """Returns the data set of the whole clips of a part."""

    def val_dataloader(self) -> DataLoader:
        return self._one_by_one("validation")

    def test_dataloader(self) -> DataLoader:
        return self._one_by_one("test")

    def loader(self, dataset: Dataset, batch_size: int, order: DistributedSampler) -> DataLoader:
        """Returns a loader of the items that `order` lists."""
        return DataLoader(
            dataset,
            batch_size,
            sampler=order,
            num_workers=self.num_workers,
            collate_fn=self.collate,
            worker_init_fn=_leave_signals_to_the_main_process,
            pin_memory=torch.cuda.is_available(),
        )

    def _one_by_one(self, part: str) -> DataLoader:
        clips = self.clips(part)
        return self.loader(clips, 1, Order(*self._place(), length=len(clips)))

    def _batches(self) -> int:
        """Returns how many batches each process has read; more than 0 in a resumed training."""
        return self.trainer.fit_loop.total_batch_idx + 1 if self.trainer else 0

    @property
    def _at_once(self) -> int:
        """Crops to a batch, of all processes."""
        return self._place()[0] * self.batch_size

    def _place(self) -> tuple[int, int]:
        """Returns the number of processes and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)


class Order(DistributedSampler):
    """The numbers of the items that one of n processes reads: every n-th. Together they read what one would, in its order.

    Where there are fewer items than processes, several read the same, so that each has one. With several processes Lightning
    replaces every sampler that is no `DistributedSampler`, hence the base class; nothing else of it is used.
    """

    num_replicas = 1  # else Lightning would warn that items are read twice

    def __init__(self, processes: int, rank: int, first: int = 0, length: int | None = None) -> None:
        start = first + (rank if length is None else rank % length)
        self.numbers = range(start, sys.maxsize if length is None else length, processes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        if self.numbers.stop == sys.maxsize:
            raise TypeError("training crops have no end")  # what Lightning takes for "unknown"
        return len(self.numbers)


def _leave_signals_to_the_main_process(_: int) -> None:
    """Has a worker ignore Ctrl-C and the like, which reach the whole group: the main process saves first, then ends it."""
    for signum in STOPS:
        signal.signal(signum, signal.SIG_IGN)
