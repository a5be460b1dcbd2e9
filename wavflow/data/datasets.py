"""Audio files as training crops and as whole clips, each with its part of the whole file's mel."""

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavflow.audio import audio_length
from wavflow.audio_files import common_folder
from wavflow.data.given import GivenMels
from wavflow.mel import MEL_FLOOR, MelSpectrogram
from wavflow.mel_files import read_with_mel


class Item(TypedDict):
    """`audio` (T,), `mel` (n_mels, T / hop_length), and `mask` (T,), 1 on audio and 0 on padding; all float32.

    `name` is a crop's file and its start in seconds, or a clip's path below the common folder, without ending and with `_`
    for each `/`. `speaker` is there where the data set was given speakers.
    """

    audio: Tensor
    mel: Tensor
    mask: Tensor
    name: str
    speaker: NotRequired[int]


class Items(Dataset[Item]):
    """What crops and clips have in common, whether they come from files or from shards.

    Args:
        mel: Its settings are used, not the module itself, whose buffers may be on a GPU.
        seed: Of the crops and the noise; a clip has the same noise each time that it is read.
        dequantize: Whether to add uniform noise of one 16-bit step to `audio`, after the mel was computed: without it
            digital silence has no density.
        speakers: Ids, one for each file; for shards, name to id. None for items without.
    """

    def __init__(self, mel: MelSpectrogram, seed: int = 0, dequantize: bool = True, speakers: Any = None) -> None:
        self.mel = MelSpectrogram(**mel.spec)
        self.seed, self.dequantize, self.speakers = seed, dequantize, speakers

    def rng(self, index: int) -> np.random.Generator:
        """Returns the generator of an item, which draws its place first and then its noise."""
        if index < 0:
            raise IndexError(f"`index` must be at least 0, got {index}: an endless set has no last item.")
        return np.random.default_rng([self.seed, index])

    def first_frame(self, rng: np.random.Generator, length: int, frames: int) -> int:
        """Samples the first frame of a crop of `frames` frames out of `length` samples of audio."""
        return int(rng.integers(max(0, self.mel.frames_of(length) - frames) + 1))

    def item(
        self, audio: Tensor, mel: Tensor, frames: int, rng: np.random.Generator, name: str, speaker: int | None = None
    ) -> Item:
        """Pads audio (T,) and mel (n_mels, F) to `frames` frames, makes the mask, and dequantizes."""
        length = frames * self.mel.hop_length
        mask = torch.zeros(length, dtype=torch.float32)
        mask[: len(audio)] = 1.0
        if self.dequantize:
            audio = audio + torch.from_numpy(rng.random(len(audio), dtype=np.float32) - np.float32(0.5)) / 32768
        item: Item = {
            "audio": torch.nn.functional.pad(audio, (0, length - len(audio))),
            "mel": torch.nn.functional.pad(mel, (0, frames - mel.shape[1]), value=math.log(MEL_FLOOR)),
            "mask": mask,
            "name": name,
        }
        return item if speaker is None else {**item, "speaker": speaker}


class CropDataset(Items):
    """Random crops of a fixed length without end; files are sampled in proportion to their length.

    Item i, for any i >= 0, is a function of (seed, i) alone, so a training can go on from the number of items it has read.
    A crop starts on a mel frame. A clip shorter than a crop is padded with zeros, its mel with silence, and the mask is 0
    there. A last incomplete hop, which no frame conditions, is left out; but a clip shorter than one hop counts as one frame.
    A file that can't be read, or has another length than before, is dropped with a warning, and another crop takes its place.

    Args:
        files: Audio files, of any rate.
        mel: See `Items`, as for the other options.
        segment_length: In samples at the mel's rate, a multiple of its `hop_length`.
        mels: The files' mels, where they are not to be computed.

    Raises:
        ValueError: An argument does not fit, or a file's header can't be read.
    """

    def __init__(
        self, files: Sequence[Path], mel: MelSpectrogram, segment_length: int, mels: GivenMels | None = None, **options: Any
    ) -> None:
        super().__init__(mel, **options)
        check_files(files)
        check_segment_length(segment_length, mel)
        self.files, self.segment_length, self.mels = list(files), segment_length, mels
        self._wholes = [audio_length(path, mel.sample_rate) for path in self.files]
        self._lengths = self._wholes
        if mels is not None:
            self._lengths = [mels.samples(*file) for file in zip(self.files, self._wholes, strict=True)]
        self._ends = np.cumsum(self._lengths)
        self._dropped: set[int] = set()

    def __getitem__(self, index: int) -> Item:
        rng, frames = self.rng(index), self.segment_length // self.mel.hop_length
        for which, first in self.places(rng):
            try:
                audio, mel = self._read(which, first, frames)
            except (ValueError, OSError) as error:
                self.drop(which, error)
                continue
            return self.item(audio, mel, frames, rng, **self.about(which, first))
        raise ValueError(f"`files` must stay readable, but none of {len(self.files)} is left: check the disk they lie on.")

    def places(self, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
        """Yields files and first frames to take a crop from, the next one where that can't be read, while files are left."""
        frames = self.segment_length // self.mel.hop_length
        while len(self._dropped) < len(self.files):
            which = int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))
            first = self.first_frame(rng, self._lengths[which], frames)
            if which not in self._dropped:
                yield which, first

    def about(self, which: int, first: int) -> dict[str, Any]:
        """Returns the name and the speaker of a crop."""
        name = f"{self.files[which]} from {first * self.mel.hop_length / self.mel.sample_rate:.2f} s"
        return {"name": name} | ({} if self.speakers is None else {"speaker": self.speakers[which]})

    def drop(self, which: int, error: Exception) -> None:
        """Leaves out a file from now on, with a warning."""
        self._dropped.add(which)
        warnings.warn(f"An audio file can't be read and is dropped from training: {error}", stacklevel=3)

    def _read(self, which: int, first: int, frames: int) -> tuple[Tensor, Tensor]:
        path = self.files[which]
        if audio_length(path, self.mel.sample_rate) != self._wholes[which]:
            raise ValueError(f"`path` must stay as it is during training, but {path} changed its length: leave it alone.")
        if self.mels is not None:
            return self.mels.read_crop(path, first, frames)
        return read_with_mel(path, self.mel, first, frames, self._lengths[which])


class ClipDataset(Items):
    """Whole files, one by one, cut to a multiple of `hop_length`; for validation and tests.

    A file that turns out to be damaged is named in a warning, and the next one that can be read stands in for it.

    Args:
        files: Audio files, of any rate.
        mel: See `Items`, as for the other options.
        max_seconds: What lies beyond is left out (the mel still is the whole file's).
        mels: As for `CropDataset`.
    """

    def __init__(
        self,
        files: Sequence[Path],
        mel: MelSpectrogram,
        max_seconds: float | None = None,
        mels: GivenMels | None = None,
        **options: Any,
    ) -> None:
        super().__init__(mel, **options)
        check_files(files)
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(f"`max_seconds` must be above 0, got {max_seconds}: raise it, or leave it out for no limit.")
        self.files, self.max_seconds, self.mels = list(files), max_seconds, mels
        folder = common_folder(self.files)
        self.names = ["_".join(path.absolute().relative_to(folder).with_suffix("").parts) for path in self.files]
        if len(set(self.names)) < len(self.names):  # a.wav beside a.flac: what is written under these names must not clash
            self.names = [f"{number:05d}_{name}" for number, name in enumerate(self.names)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in 0 … {len(self) - 1}, got {index}.")
        for which in [*range(index, len(self)), *range(index)]:
            try:
                path = self.files[which]
                length = audio_length(path, self.mel.sample_rate)
                if self.mels is None:
                    frames = self.mel.frames_of(length, self.max_seconds)
                    audio, mel = read_with_mel(path, self.mel, 0, frames, length)
                else:
                    frames = self.mel.frames_of(self.mels.samples(path, length), self.max_seconds)
                    audio, mel = self.mels.read_crop(path, 0, frames)
            except (ValueError, OSError) as error:
                warnings.warn(f"An audio file can't be read, the next one stands in for it: {error}", stacklevel=2)
                continue
            speaker = None if self.speakers is None else self.speakers[which]
            return self.item(audio, mel, frames, self.rng(which), self.names[which], speaker)
        raise ValueError(f"`files` must stay readable, but none of {len(self)} is left: check the disk they lie on.")


def check_segment_length(segment_length: int, mel: MelSpectrogram) -> None:
    """Raises ValueError unless crops can have that length."""
    if segment_length < 1 or segment_length % mel.hop_length:
        raise ValueError(
            f"`segment_length` must be a positive multiple of the mel's hop_length {mel.hop_length}, got "
            f"{segment_length}: take {max(1, segment_length // mel.hop_length) * mel.hop_length}."
        )


def check_files(files: Sequence[Path]) -> None:
    """Raises ValueError where there are none."""
    if not files:
        raise ValueError("`files` must hold at least one audio file, got none: name a folder that holds audio.")
