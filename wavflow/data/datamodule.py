"""The data of a training run: a folder of audio, split, cropped and batched."""

import os
import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from wavflow.arguments import about
from wavflow.audio import audio_length, audio_rate
from wavflow.audio_files import counted, some, usable_files
from wavflow.data.batches import Batches
from wavflow.data.corpora import find_files
from wavflow.data.datasets import ClipDataset, CropDataset
from wavflow.data.given import GivenMels, find_mels
from wavflow.data.resident import ResidentCrops
from wavflow.data.split import SPLITS, Split, file_name, follow_split, read_split, split_files
from wavflow.mel import MelSpectrogram
from wavflow.mel_files import read_scale


def bundled_speech() -> Path:
    """The folder of the small speech corpus that ships with the package."""
    return Path(str(resources.files("wavflow") / "assets" / "speech"))


class AudioDataModule(Batches):
    """Random crops to train on, whole clips (one per batch, since lengths differ) to validate and test with.

    The split is by a hash of the files' names (`split_files`), or as an earlier run had it (`follow`). The seed is that
    of the split, too.

    Args:
        mel: See `Batches`.
        path: Folder tree of audio files; the bundled corpus where none is given.
        validation: Fraction of the files.
        test: Fraction of the files.
        table: A CSV file that lists the files, and their speakers, by paths relative to `path`; see `read_table`.
        corpus: A published corpus below `path`, whose speakers are known; see `find_corpus`.
        part: Of the corpus.
        download: Whether to fetch the corpus into `path` if it is not there.
        resident: Whether the audio and the mels to train on lie in the memory of the device; see `ResidentCrops`.
        split: A JSON file of lists of names to split by, such as a run's split.json; see `follow_split`.
        mels: A folder of mels, so that none are computed; see `find_mels` and `GivenMels`.
        mel_scale: The scale of these mels; see `read_scale`, as for the next two.
        mel_mean: What was subtracted from them: a number, or a file.
        mel_std: What they were divided by: a number, or a file.
        crops: The other options of `Batches`.

    Attributes:
        given: The mels that were given, once it is set up; None where they are computed.
    """

    def __init__(
        self,
        mel: MelSpectrogram,
        path: str | os.PathLike[str] | None = None,
        validation: float = 0.05,
        test: float = 0.1,
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
        **crops: Any,
    ) -> None:
        super().__init__(mel, **crops)
        if resident and self.num_workers:
            raise ValueError(
                f"`num_workers` must be 0 for `resident` data, which nobody reads, got {self.num_workers}: leave it out."
            )
        if table is not None and corpus is not None:
            raise ValueError(f"`table` and `corpus` both name the files, got {table} and {corpus}: leave one out.")
        self.path = bundled_speech() if path is None else Path(path)
        self.validation, self.test = validation, test
        self.table, self.corpus, self.part, self.download = table, corpus, part, download
        self.resident = resident
        self._stored = None if split is None else read_split(split)
        self._must_fit = split is not None
        self.mels, self.scale = mels, read_scale(mel_scale, mel_mean, mel_std)
        self.given: GivenMels | None = None
        self._split: tuple[list[Path], list[Path], list[Path]] | None = None
        self._speakers: dict[Path, str] = {}

    @property
    def contents(self) -> tuple[int, str]:
        files = self.files("train")
        mels = "" if self.given is None else ", mels given"
        return len(files), f"{files[0].suffix[1:]}, {audio_rate(files[0])} Hz{mels}"

    @property
    def summary(self) -> str:
        files, speakers = self._all_files(), self.speakers
        minutes = sum(audio_length(path, self.mel.sample_rate) for path in files) / self.mel.sample_rate / 60
        length = f"{minutes:.1f} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
        train, validation, test = (len(self.files(part)) for part in SPLITS)
        voices = f"; {counted(len(speakers), 'speaker')}" if speakers else ""
        parts = f"{train} to train on, {validation} to validate, {test} held out to test"
        return f"{counted(len(files), 'file')}, {length}: {parts}{voices}"

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
        for part, doing in (("validation", "validate"), ("test", "test"), ("train", "train")):
            short = [path for path in self.files(part) if audio_length(path, rate) < self.mel.n_fft]
            if short:
                remarks.append(
                    f"{len(short)} of {len(self.files(part))} files to {doing} with are shorter than {self.mel.n_fft} "
                    f"samples, a window of the mel: {some(short, 3)}"
                )
        return remarks

    def _all_files(self) -> list[Path]:
        return list(dict.fromkeys(path for part in SPLITS for path in self.files(part)))

    def files(self, part: str) -> list[Path]:
        """Returns the files to train, validate or test with, by the name of the part in `SPLITS`."""
        self.setup()
        assert self._split is not None
        return self._split[SPLITS.index(part)]

    @property
    def speakers(self) -> list[str]:
        """Names of all speakers, sorted; empty where neither a table nor a corpus names them."""
        self.setup()
        return sorted(set(self._speakers.values()))

    @property
    def split(self) -> Split:
        return {part: [file_name(path, self.path) for path in self.files(part)] for part in SPLITS}

    def follow(self, stored: Mapping[str, Any], must_fit: bool = False) -> None:
        """Splits as an earlier run did, whose `split` this is.

        Args:
            stored: Without `train`, all files that are not held out are trained on.
            must_fit: Whether it is an error that `stored` names none of the files. If not, they are split by hash, and a split
                that the constructor was given is preferred to `stored`.
        """
        if must_fit or self._stored is None:
            self._stored, self._must_fit = read_split(stored), must_fit

    def speaker_ids(self, files: Sequence[Path]) -> list[int] | None:
        """Returns the speakers' numbers of some of the files; None unless `number_speakers` was called."""
        return None if self.ids is None else [self.ids[self._speakers[path]] for path in files]

    def setup(self, stage: str | None = None) -> None:
        """Finds the files, leaves out those that can't be used, and splits them; once, whatever the stage.

        Raises:
            FileNotFoundError: There is no such folder, table or corpus.
            ValueError: It holds no audio, or none that can be used, or none that the split names.
        """
        if self._split is None:
            with about("data.path", "folder", "paths"):
                found = find_files(self.path, self.table, self.corpus, self.part, self.download)
                files = usable_files(list(found))
            if paths := find_mels(files, self.path, self.mels, self.table, self.scale):
                self.given = GivenMels(paths, self.mel, self.scale)
                files = list(self.given.frames)
            self._speakers = {path: name for path in files if (name := found[path]) is not None}
            self._split = split_files(files, self.validation, self.test, self.seed, self.path)
            if self._stored is not None:
                stored = follow_split(self._stored, files, self._split, self.path)
                if stored is None and self._must_fit:
                    raise ValueError(f"`split` does not fit the files below {self.path}: name the folder that it was made of.")
                self._split = stored or self._split

    def train_dataloader(self) -> DataLoader:
        files = self.files("train")
        ids = self.speaker_ids(files)
        if ids is not None and (unheard := sorted(set(self.speakers) - {self._speakers[path] for path in files})):
            who = counted(len(unheard), "speaker")
            warnings.warn(f"Nothing is left to train on of {who}: {', '.join(unheard)}", stacklevel=2)
        what, options = (files, self.mel, self.segment_length, self.given), self.options(ids)
        if self.resident:
            device = self.trainer.strategy.root_device if self.trainer else "cpu"
            crops = ResidentCrops(device, *what, **options)
            return DataLoader(crops, self.batch_size, sampler=self.order(), collate_fn=lambda batch: batch)
        return self.loader(CropDataset(*what, **options), self.batch_size, self.order())

    def clips(self, part: str) -> Any:
        files = self.files(part)
        return ClipDataset(files, self.mel, self.max_clip_seconds, self.given, **self.options(self.speaker_ids(files)))
