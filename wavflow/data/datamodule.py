"""The data of a training run: a folder of audio, split, cropped and batched."""

import itertools
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from wavflow.arguments import about
from wavflow.audio import audio_length, audio_rate
from wavflow.data.corpora import find_corpus, read_table
from wavflow.data.datasets import ClipDataset, CropDataset, check_segment_length
from wavflow.data.files import find_audio, usable_files
from wavflow.data.given import GivenMels, find_mels
from wavflow.data.resident import ResidentCrops, as_is
from wavflow.data.split import SPLITS, Split, file_name, follow_split, read_split, split_files
from wavflow.mel import MelSpectrogram
from wavflow.mel_files import read_scale


def bundled_speech() -> Path:
    """The folder of the small speech corpus that ships with the package."""
    return Path(str(resources.files("wavflow") / "assets" / "speech"))


class AudioDataModule(pl.LightningDataModule):
    """Random crops to train on, whole clips (one per batch, since lengths differ) to validate and test with.

    The split is by a hash of the files' names (`split_files`), or as an earlier run had it (`follow`). The crops have no end:
    batch i, counted over the whole training, is always the same, and so a resumed training goes on with the batch that would
    have come.

    Args:
        mel: The spectrogram that conditions the models; its sample rate is the data's.
        path: Folder tree of audio files; the bundled corpus where none is given.
        segment_length: Of a crop, in samples, a multiple of the mel's `hop_length`.
        batch_size: Crops per training batch.
        num_workers: Processes that read; 0 reads in the main one.
        validation: Fraction of the files.
        test: Fraction of the files.
        seed: Of the split, the crops and the noise.
        max_clip_seconds: Validation and test clips are cut there; `None` keeps them whole.
        dequantize: Whether to add uniform noise of one 16-bit step to the audio.
        table: A CSV file that lists the files, and their speakers, by paths relative to `path`; see `read_table`.
        corpus: A published corpus to find below `path`, and to know the speakers of; see `find_corpus`.
        part: Of the corpus.
        download: Whether to fetch the corpus into `path` if it is not there.
        resident: Whether all that is trained on lies on the training's device, with its mels; see `ResidentCrops`.
        split: A JSON file of lists of names, such as a run's split.json, to split by instead; see `follow_split`.
        mels: A folder of mels to take instead of computing them, named as the audio below `path` is; or what the column `mel`
            of `table` is relative to, else `path` is. See `GivenMels`.
        mel_scale: What these mels are to be converted from, see `MelScale`; so are the next two.
        mel_mean: A number, or a file.
        mel_std: Likewise.

    Attributes:
        given: The mels that were given, once it is set up; None where they are computed.

    Raises:
        ValueError: An argument does not fit.
    """

    def __init__(
        self,
        mel: MelSpectrogram,
        path: str | os.PathLike[str] | None = None,
        segment_length: int = 8192,
        batch_size: int = 8,
        num_workers: int = 0,
        validation: float = 0.05,
        test: float = 0.1,
        seed: int = 0,
        max_clip_seconds: float | None = 10.0,
        dequantize: bool = True,
        table: str | os.PathLike[str] | None = None,
        corpus: str | None = None,
        part: str | None = None,
        download: bool = False,
        resident: bool = False,
        split: str | os.PathLike[str] | None = None,
        mels: str | os.PathLike[str] | None = None,
        mel_scale: str | None = None,
        mel_mean: float | str | None = None,
        mel_std: float | str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value}.")
        check_segment_length(segment_length, mel)
        if resident and num_workers:
            raise ValueError(
                f"`num_workers` must be 0 for `resident` data, which nobody reads, got {num_workers}: leave it out."
            )
        if table is not None and corpus is not None:
            raise ValueError(f"`table` and `corpus` both name the files, got {table} and {corpus}: leave one out.")
        self.mel = mel
        self.path = bundled_speech() if path is None else Path(path)
        self.segment_length, self.batch_size, self.num_workers = segment_length, batch_size, num_workers
        self.validation, self.test, self.seed = validation, test, seed
        self.max_clip_seconds, self.dequantize = max_clip_seconds, dequantize
        self.table, self.corpus, self.part, self.download = table, corpus, part, download
        self.resident = resident
        self._stored = None if split is None else read_split(split)
        self._must_fit = split is not None
        self.mels, self.scale = mels, read_scale(mel_scale, mel_mean, mel_std)
        self.given: GivenMels | None = None
        self._split: tuple[list[Path], list[Path], list[Path]] | None = None
        self._speakers: dict[Path, str] = {}
        self._ids: dict[str, int] | None = None
        self._crops: int | None = None  # that a training had read which is resumed
        self._began: tuple[int, int] | None = None  # batches and crops that were read when this process began

    @property
    def contents(self) -> tuple[int, str]:
        """How many files there are to train on, and of what kind the first is."""
        first = self.train_files[0]
        mels = "" if self.given is None else ", mels given"
        return len(self.train_files), f"{first.suffix[1:]}, {audio_rate(first)} Hz{mels}"

    @property
    def summary(self) -> str:
        """Files, length, split and speakers, in words."""
        files, speakers = self._all_files(), self.speakers
        minutes = sum(audio_length(path, self.mel.sample_rate) for path in files) / self.mel.sample_rate / 60
        length = f"{minutes:.1f} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
        train, validation, test = (len(self._files(part)) for part in range(3))
        voices = f"; {len(speakers)} speakers" if speakers else ""
        return f"{len(files)} files, {length}: {train} to train on, {validation} to validate, {test} held out to test{voices}"

    @property
    def remarks(self) -> list[str]:
        """What is unusual about the files: rates below the mel's, and clips shorter than its window."""
        files, rate, remarks = self._all_files(), self.mel.sample_rate, []
        low = {path: found for path in files if (found := audio_rate(path)) < rate}
        if low:
            remarks.append(
                f"{len(low)} of {len(files)} files have fewer samples per second than the model's {rate}, as few as "
                f"{min(low.values())}: above half of that there is nothing to learn; audio=... chooses another rate. "
                f"The first: {next(iter(low))}"
            )
        for part, doing in ((1, "validate"), (2, "test"), (0, "train")):
            short = [path for path in self._files(part) if audio_length(path, rate) < self.mel.n_fft]
            if short:
                remarks.append(
                    f"{len(short)} of {len(self._files(part))} files to {doing} with are shorter than {self.mel.n_fft} "
                    f"samples, a window of the mel: {', '.join(map(str, short[:3]))}{', ...' * (len(short) > 3)}"
                )
        return remarks

    def _all_files(self) -> list[Path]:
        return list(dict.fromkeys(path for part in range(3) for path in self._files(part)))

    @property
    def train_files(self) -> list[Path]:
        return self._files(0)

    @property
    def validation_files(self) -> list[Path]:
        return self._files(1)

    @property
    def test_files(self) -> list[Path]:
        return self._files(2)

    @property
    def speakers(self) -> list[str]:
        """Names of all speakers, sorted; none where neither a table nor a corpus tells them."""
        self.setup()
        return sorted(set(self._speakers.values()))

    @property
    def split(self) -> Split:
        """The files' names by part, to keep with a run and its model; none where they are not known."""
        return {part: [file_name(path, self.path) for path in self._files(i)] for i, part in enumerate(SPLITS)}

    def follow(self, stored: Mapping[str, Any], must_fit: bool = False) -> None:
        """Splits as an earlier run did, whose `split` this is.

        Args:
            stored: Without `train`, all files that are not held out are trained on.
            must_fit: Whether it is an error that it names none of the files. If not, they are other data then, split by hash,
                and a split that the constructor was given goes first.
        """
        if must_fit or self._stored is None:
            self._stored, self._must_fit = read_split(stored), must_fit

    def number_speakers(self, names: Sequence[str]) -> None:
        """Makes items hold their speaker's place among `names` as `speaker`; until then they hold no speaker.

        Raises:
            ValueError: The data names no speakers, or one that is not among `names`.
        """
        if not self.speakers:
            raise ValueError("`data` names no speakers, but the model takes one: take data=folder with data.table=<CSV file>.")
        if unknown := set(self.speakers) - set(names):
            raise ValueError(
                f"`data` may name no speakers but the model's, {', '.join(names)}, got {', '.join(sorted(unknown))} too."
            )
        self._ids = {name: i for i, name in enumerate(names)}

    def speaker_ids(self, files: Sequence[Path]) -> list[int] | None:
        """Returns the speakers' numbers of some of the files; None unless `number_speakers` was called."""
        return None if self._ids is None else [self._ids[self._speakers[path]] for path in files]

    def setup(self, stage: str | None = None) -> None:
        """Finds the files, leaves out those that can't be used, and splits them; once, whatever the stage.

        Raises:
            FileNotFoundError: There is no such folder, table or corpus.
            ValueError: It holds no audio, or none that can be used, or none that the split names.
        """
        if self._split is None:
            with about("data.path", "folder", "paths"):
                found = self._find()
                files = usable_files(list(found))
            if paths := find_mels(files, self.path, self.mels, self.table):
                self.given = GivenMels(paths, self.mel, self.scale)
                files = list(self.given.frames)
            elif self.scale is not None:
                raise ValueError("`mel_scale`, `mel_mean` and `mel_std` are of given mels, but none are: name them by `mels`.")
            self._speakers = {path: name for path in files if (name := found[path]) is not None}
            self._split = split_files(files, self.validation, self.test, self.seed, self.path)
            if self._stored is not None:
                stored = follow_split(self._stored, files, self._split, self.path)
                if stored is None and self._must_fit:
                    raise ValueError(f"`split` does not fit the files below {self.path}: name the folder that it was made of.")
                self._split = stored or self._split

    def train_dataloader(self) -> DataLoader:
        ids = self.speaker_ids(self.train_files)
        if ids is not None and (unheard := sorted(set(self.speakers) - {self._speakers[path] for path in self.train_files})):
            warnings.warn(f"Nothing is left to train on of {len(unheard)} speakers: {', '.join(unheard)}", stacklevel=2)
        options = self.train_files, self.mel, self.segment_length, self.seed, self.dequantize, ids, self.given
        if self.resident:
            device = self.trainer.strategy.root_device if self.trainer else "cpu"
            return DataLoader(ResidentCrops(device, *options), self.batch_size, sampler=self._order(), collate_fn=as_is)
        return self._loader(CropDataset(*options), self.batch_size, self._order())

    def val_dataloader(self) -> DataLoader:
        return self._clips(self.validation_files)

    def test_dataloader(self) -> DataLoader:
        return self._clips(self.test_files)

    def _find(self) -> dict[Path, str | None]:
        """Returns file to speaker."""
        if self.corpus is not None:
            return find_corpus(self.corpus, self.path, self.part, self.download)
        return dict.fromkeys(find_audio(self.path)) if self.table is None else read_table(self.table, self.path)

    def _files(self, part: int) -> list[Path]:
        self.setup()
        assert self._split is not None
        return self._split[part]

    def _clips(self, files: list[Path]) -> DataLoader:
        ids = self.speaker_ids(files)
        clips = ClipDataset(files, self.mel, self.max_clip_seconds, self.seed, self.dequantize, ids, self.given)
        return self._loader(clips, 1)

    def state_dict(self) -> dict[str, int]:
        """Returns how many crops training has read, in all processes; a resumed training may batch them otherwise."""
        return {} if self._began is None else {"crops": self._began[1] + (self._batches() - self._began[0]) * self._at_once}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._crops = state_dict["crops"]

    def _order(self) -> DistributedSampler:
        """Returns the order of the crops: this process's share, from the first that training has not read yet."""
        read = self._batches()
        self._began = read, read * self._at_once if self._crops is None else self._crops
        return _Share(*self._place(), self._began[1])

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

    def _loader(self, dataset: Dataset, batch_size: int, sampler: DistributedSampler | None = None) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size,
            sampler=_Share(*self._place(), length=len(dataset)) if sampler is None else sampler,
            num_workers=self.num_workers,
            worker_init_fn=_leave_signals_to_the_main_process,
            pin_memory=torch.cuda.is_available(),
        )


class _Share(DistributedSampler):
    """Numbers of items, each process every n-th, from `first` on: together they read what one alone would, in its order.

    Where there are fewer items than processes, some are read by several, so that none goes without. Lightning replaces every
    sampler of several processes but a `DistributedSampler`; nothing of that one is used here.
    """

    num_replicas = 1  # else Lightning would warn that items are read twice

    def __init__(self, processes: int, rank: int, first: int = 0, length: int | None = None) -> None:
        self.step, self.length = processes, length
        self.start = first + (rank if length is None else rank % length)

    def __iter__(self) -> Iterator[int]:
        return (
            itertools.count(self.start, self.step) if self.length is None else iter(range(self.start, self.length, self.step))
        )

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("training crops have no end")  # what Lightning takes for "unknown"
        return len(range(self.start, self.length, self.step))


def _leave_signals_to_the_main_process(_: int) -> None:
    """Lets a worker survive Ctrl-C and SIGTERM, which reach the whole group: the main process saves first, then ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
