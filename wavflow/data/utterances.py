"""Whole utterances with their texts, in batches of about one length."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from wavflow.audio import audio_length
from wavflow.audio_files import counted
from wavflow.data.datamodule import AudioDataModule
from wavflow.data.texts import find_texts
from wavflow.mel import MelSpectrogram
from wavflow.mel_files import read_with_mel
from wavflow.text import symbols_of
from wavflow.text_to_mel import FOLD

BATCHES_SORTED = 8
"""Batches whose files are sorted by length together: little padding, yet another order in each epoch."""


class Utterances(Dataset[dict[str, Any]]):
    """Mels of whole files, and the symbols of their texts; an item is a function of seed and number.

    Args:
        files: Audio files, of any rate.
        symbols: The numbers of the symbols of each.
        mel: Its settings are used.
        speakers: Ids, one for each file.
        speeds: How much faster and higher each file is played; None for as it is.
        batch_size: Of a training, where the items never end and those of a batch are about equally long. 0 for each file
            once, in order.
        seed: Of the order.
    """

    def __init__(
        self,
        files: Sequence[Path],
        symbols: Sequence[Sequence[int]],
        mel: MelSpectrogram,
        speakers: Sequence[int] | None = None,
        speeds: Sequence[float] | None = None,
        batch_size: int = 0,
        seed: int = 0,
    ) -> None:
        self.files, self.symbols, self.speakers = list(files), list(symbols), speakers
        self.mel = MelSpectrogram(**mel.spec)
        self.batch_size, self.seed = batch_size, seed
        # audio resampled to another rate and played at the mel's is faster or slower
        self.rates = [round(mel.sample_rate / speed) for speed in speeds or [1.0] * len(files)]
        self.lengths = np.array([audio_length(path, rate) for path, rate in zip(files, self.rates, strict=True)])
        self._epoch, self._order = -1, np.arange(len(self.files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        which = int(self._of_epoch(index // len(self.files))[index % len(self.files)]) if self.batch_size else index
        path, length = self.files[which], int(self.lengths[which])
        frames = even_frames(length, self.mel)
        audio, mel = read_with_mel(path, self.mel, 0, frames, length, self.rates[which])
        item = {"audio": audio, "mel": mel[:, :frames], "symbols": torch.tensor(self.symbols[which]), "name": path.stem}
        return item if self.speakers is None else {**item, "speaker": self.speakers[which]}

    def _of_epoch(self, epoch: int) -> np.ndarray:
        """Returns the order of an epoch: shuffled, sorted by length in blocks, and the batches of a block shuffled."""
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(len(self.files))
            parts = []
            for block in np.array_split(order, max(1, len(order) // (BATCHES_SORTED * self.batch_size))):
                block = block[np.argsort(self.lengths[block], kind="stable")]
                batches = np.split(block, range(self.batch_size, len(block), self.batch_size))
                parts += [batches[i] for i in rng.permutation(len(batches))]
            self._epoch, self._order = epoch, np.concatenate(parts)
        return self._order


def voice_name(speaker: str, speed: float) -> str:
    """Returns what a speaker is called at a speed."""
    return speaker if speed == 1 else f"{speaker} x{speed:g}".lstrip()


def even_frames(length: int, mel: MelSpectrogram) -> int:
    """Returns how many frames `length` samples have, less one where that is odd: `TextToMel` takes pairs."""
    return mel.frames_of(length) // FOLD * FOLD


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pads a batch: mel (B, n_mels, F), frames (B,), symbols (B, S), lengths (B,), name; audio and speaker where they are."""
    frames, lengths = ([item[key].shape[-1] for item in items] for key in ("mel", "symbols"))
    batch = {
        "mel": torch.stack([pad(item["mel"], (0, max(frames) - item["mel"].shape[1])) for item in items]),
        "symbols": torch.stack([pad(item["symbols"], (0, max(lengths) - len(item["symbols"]))) for item in items]),
        "frames": torch.tensor(frames),
        "lengths": torch.tensor(lengths),
        "name": [item["name"] for item in items],
    }
    if len(items) == 1:
        batch["audio"] = items[0]["audio"][None]
    return batch | ({"speaker": torch.tensor([item["speaker"] for item in items])} if "speaker" in items[0] else {})


class TextDataModule(AudioDataModule):
    """Utterances with their texts; of the arguments of `AudioDataModule` those of crops have no effect.

    Args:
        speeds: Each adds a copy of the training data, faster and higher (above 1) or slower and lower (below), as further
            voices: without them a model of minutes of speech would memorize the recordings.

    Attributes:
        written: The symbols of each file's text, once `use_symbols` was called.
        numbers: The number of each symbol in the model's table, likewise.
    """

    collate = staticmethod(collate)
    written: dict[Path, list[str]]
    numbers: dict[str, int]

    def __init__(self, *args: Any, speeds: Sequence[float] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        if not all(0.5 <= speed <= 2 and speed != 1 for speed in speeds) or len(set(speeds)) < len(speeds):
            raise ValueError(f"`speeds` must be different numbers from 0.5 to 2 other than 1, got {list(speeds)}.")
        self.speeds = (1.0, *speeds)

    @property
    def speakers(self) -> list[str]:
        """Names of all voices: the speakers, sorted, and then each of them at each of the speeds."""
        speakers = super().speakers or [""] * (len(self.speeds) > 1)
        return [voice_name(name, speed) for speed in self.speeds for name in speakers]

    def speaker_ids(self, files: Sequence[Path], speed: float = 1.0) -> list[int] | None:
        """Returns the voices' numbers of some of the files; None unless `number_speakers` was called."""
        return None if self.ids is None else [self.ids[voice_name(self._speakers.get(path, ""), speed)] for path in files]

    def use_symbols(self, alphabet: str, symbols: Sequence[str] | None = None, states: int = 1) -> list[str]:
        """Chooses the alphabet, and returns the table of symbols: the given one, or all that the training texts hold.

        It leaves out texts that are too long for their audio: each symbol needs `states` frames.
        """
        files = self._all_files()
        texts = find_texts(files, self.path, self.table)
        assert self._split is not None
        if without := [path for path in files if path not in texts]:
            warnings.warn(f"{counted(len(without), 'file')} left out for want of a text, the first: {without[0]}", stacklevel=2)
        self.written = {path: symbols_of(text, alphabet) for path, text in texts.items()}
        rate = round(self.mel.sample_rate / max(self.speeds))
        kept = {
            path
            for path, written in self.written.items()
            if written and states * len(written) <= even_frames(audio_length(path, rate), self.mel)
        }
        if odd := [path for path in texts if path not in kept]:
            warnings.warn(
                f"{counted(len(odd), 'file')} left out, with a text that is empty or too long: {odd[0]}", stacklevel=2
            )
        train, validation, test = ([path for path in part if path in kept] for part in self._split)
        self._split = train, validation or train[-1:], test
        if not train:
            raise ValueError(f"`data` must hold audio with texts to train on, but none is left below {self.path}.")
        table = list(symbols or sorted({symbol for path in train for symbol in self.written[path]}))
        self.numbers = {symbol: number for number, symbol in enumerate(table)}
        return table

    def train_dataloader(self) -> DataLoader:
        files, times = self.files("train"), len(self.speeds)
        if times > 1 and self.ids is None:
            raise ValueError(
                "`data.speeds` makes further voices: say net.n_speakers=auto, or data.speeds=[] for a model of one voice."
            )
        ids = None if self.ids is None else [i for speed in self.speeds for i in self.speaker_ids(files, speed) or ()]
        speeds = [speed for speed in self.speeds for _ in files]
        utterances = Utterances(times * files, times * self._numbers(files), self.mel, ids, speeds, self.batch_size, self.seed)
        return self.loader(utterances, self.batch_size, self.order())

    def clips(self, part: str) -> Utterances:
        files = self.files(part)
        return Utterances(files, self._numbers(files), self.mel, self.speaker_ids(files))

    def _numbers(self, files: Sequence[Path]) -> list[list[int]]:
        """Returns the numbers of each text's symbols; those that the table lacks are left out."""
        return [[self.numbers[symbol] for symbol in self.written[path] if symbol in self.numbers] for path in files]
