"""Crops and clips out of the pieces that shards hold (wavflow/data/pieces.py), and the Lightning module that batches them.

The order of the crops is a function of (seed, index) alone, as in `CropDataset`, but it visits one shard at a time in each
of 64 lanes, and stays there for about as many crops as the shard holds::

    crop      0      1      2    ...    63     64     65
    lane      0      1      2    ...    63      0      1       index % 64
    shard    17      3     29    ...     8     17      3       sampled for each visit, in proportion to its bytes

So a batch mixes many shards, and yet each is fetched for a whole visit. Process r of n reads the crops r, r + n, ...: where n
divides 64, it fetches the shards of its own lanes alone, and all together read what one alone would.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from wavflow.audio_files import counted
from wavflow.data.batches import Batches
from wavflow.data.datasets import Item, Items, check_segment_length
from wavflow.data.pieces import LANES, Shards, bucket_and_folder, check_spec, cut, one_error, speaker_of
from wavflow.data.split import SPLITS, Split, read_split
from wavflow.mel import MelSpectrogram


class ShardCrops(Items):
    """Random crops without end, in the order of the module's docstring; otherwise as `CropDataset`.

    Args:
        shards: What to sample from.
        mel: See `Items`, as for the other options. Where the pieces hold mels, they must have been made with the same.
        segment_length: In samples, a multiple of the mel's `hop_length`.

    Raises:
        ValueError: An argument does not fit, or the shards were made for another mel or sample rate.
    """

    def __init__(self, shards: Shards, mel: MelSpectrogram, segment_length: int, **options: Any) -> None:
        super().__init__(mel, **options)
        check_segment_length(segment_length, mel)
        check_spec(next(shards.pieces()), mel, shards.path)
        self.shards, self.segment_length = shards, segment_length
        self._ends = np.cumsum(shards.sizes)
        self._stay = max(1, int(shards.sizes.mean()) // 2 // segment_length)  # crops per visit; two bytes a sample

    def __getitem__(self, index: int) -> Item:
        rng, (turn, lane) = self.rng(index), divmod(index, LANES)
        visit = (turn + lane * self._stay // LANES) // self._stay  # the lanes move on one after the other
        shard = self._shard([self.seed, lane, visit])
        while not len((piece := self.shards.sample(shard, rng))["audio"]):
            shard = self._shard(int(rng.integers(2**62)))  # it may hold nothing but files that could not be used
        frames = self.segment_length // self.mel.hop_length
        first = self.first_frame(rng, len(piece["audio"]), frames)
        audio, mel = cut(piece, self.mel, first, frames)
        seconds = first * self.mel.hop_length / self.mel.sample_rate + piece["about"]["start"]
        name = f"{piece['about']['file']} from {seconds:.2f} s"
        return self.item(audio, mel, frames, rng, name, speaker_of(piece, self.speakers))

    def _shard(self, seed: int | list[int]) -> int:
        byte = np.random.default_rng(seed).integers(self._ends[-1])
        return int(np.searchsorted(self._ends, byte, side="right"))


class ShardClips(Items):
    """Whole pieces, one by one, cut to a multiple of `hop_length`; otherwise as `ClipDataset`.

    Args:
        shards: To read.
        mel: As for `ShardCrops`, and so are the other options.
        max_seconds: What lies beyond is left out.
    """

    def __init__(self, shards: Shards, mel: MelSpectrogram, max_seconds: float | None = None, **options: Any) -> None:
        super().__init__(mel, **options)
        check_spec(next(shards.pieces()), mel, shards.path)
        self.shards, self.max_seconds = shards, max_seconds

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in 0 … {len(self) - 1}, got {index}.")
        piece = next(self.shards.pieces(index))
        frames = self.mel.frames_of(len(piece["audio"]), self.max_seconds)
        audio, mel = cut(piece, self.mel, 0, frames)
        name = f"{index:05d}_{Path(piece['about']['file']).stem}"
        return self.item(audio, mel, frames, self.rng(index), name, speaker_of(piece, self.speakers))


class ShardDataModule(Batches):
    """As `AudioDataModule`, from the shards that `python -m wavflow.prepare` made, which fixed the split.

    Args:
        mel: See `Batches`, as for the other options. Its sample rate must be the shards'.
        path: What was made: a folder, or where it was copied to, s3://… or gs://….
    """

    def __init__(self, mel: MelSpectrogram, path: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(mel, **options)
        self.path = os.fspath(path).rstrip("/")
        self._shards: dict[str, Shards] = {}

    def setup(self, stage: str | None = None) -> None:
        """Opens the shards; once, whatever the stage."""
        if not self._shards:
            self._shards = {split: Shards(f"{self.path}/{split}") for split in SPLITS}

    @property
    def split(self) -> Split:
        """The names of the files that the shards were made of, from a folder or s3://…; empty where they can't be known."""
        if self.path.startswith("s3://"):
            import boto3  # litdata needs it

            bucket, folder = bucket_and_folder(self.path)
            with one_error(self.path):
                client = boto3.client("s3")
                try:
                    stored = client.get_object(Bucket=bucket, Key=f"{folder}/split.json".lstrip("/"))["Body"].read()
                except client.exceptions.NoSuchKey:
                    return {}
            return read_split(json.loads(stored))
        source = Path(self.path, "split.json")
        return read_split(source) if source.is_file() else {}

    @property
    def speakers(self) -> list[str]:
        """Names of all speakers, sorted; empty where the preparation knew none."""
        self.setup()
        return self._shards["train"].speakers

    @property
    def contents(self) -> tuple[int, str]:
        self.setup()
        shards = self._shards["train"]
        mels = "with mels" if next(shards.pieces())["mel"].size else "mels computed"
        return len(shards.files), f"shards, {self.mel.sample_rate} Hz, {mels}"

    @property
    def summary(self) -> str:
        count, kind = self.contents
        pieces = ", ".join(f"{counted(len(self._shards[split]), 'piece')} to {split}" for split in SPLITS)
        return f"{counted(count, 'shard')}{kind.removeprefix('shards')}: {pieces.replace('validation', 'validate')}"

    def files(self, part: str) -> list[Path]:
        """There are none: what needs files must be given the folder that the shards were made of."""
        raise ValueError(
            f"`data`: shards hold pieces, not files ({self.path}): use data=folder data.path=<what they were made of>."
        )

    def train_dataloader(self) -> DataLoader:
        self.setup()
        crops = ShardCrops(self._shards["train"], self.mel, self.segment_length, **self.options(self.ids))
        return self.loader(crops, self.batch_size, self.order())

    def clips(self, part: str) -> ShardClips:
        self.setup()
        return ShardClips(self._shards[part], self.mel, self.max_clip_seconds, **self.options(self.ids))
