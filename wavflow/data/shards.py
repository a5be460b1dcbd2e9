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

import numpy as np
from torch.utils.data import DataLoader, Dataset

from wavflow.data.batches import Batches
from wavflow.data.datasets import Item, check_segment_length, make_item
from wavflow.data.pieces import LANES, Shards, bucket_and_folder, check_spec, cut, one_error, speaker_of
from wavflow.data.split import SPLITS, Split, read_split
from wavflow.mel import MelSpectrogram


class ShardCrops(Dataset[Item]):
    """Random crops without end, in the order of the module's docstring; otherwise as `CropDataset`.

    Args:
        shards: What to sample from.
        mel: Its settings are used. Where the pieces hold mels, they must have been made with the same.
        segment_length: In samples, a multiple of the mel's `hop_length`.
        seed: Of the order, the crops and the noise.
        dequantize: As for `CropDataset`.
        speakers: Name to id; None for items without.

    Raises:
        ValueError: An argument does not fit, or the shards were made for another mel or sample rate.
    """

    def __init__(
        self,
        shards: Shards,
        mel: MelSpectrogram,
        segment_length: int,
        seed: int = 0,
        dequantize: bool = True,
        speakers: dict[str, int] | None = None,
    ) -> None:
        check_segment_length(segment_length, mel)
        check_spec(next(shards.pieces()), mel, shards.path)
        self.shards, self.mel = shards, MelSpectrogram(**mel.spec)
        self.segment_length, self.seed, self.dequantize, self.speakers = segment_length, seed, dequantize, speakers
        self._ends = np.cumsum(shards.sizes)
        self._stay = max(1, int(shards.sizes.mean()) // 2 // segment_length)  # crops per visit; two bytes a sample

    def __getitem__(self, index: int) -> Item:
        if index < 0:
            raise IndexError(f"`index` must be at least 0, got {index}: an endless set has no last item.")
        turn, lane = divmod(index, LANES)
        visit = (turn + lane * self._stay // LANES) // self._stay  # the lanes move on one after the other
        shard, rng = self._shard([self.seed, lane, visit]), np.random.default_rng([self.seed, index])
        while not len((piece := self.shards.sample(shard, rng))["audio"]):
            shard = self._shard(int(rng.integers(2**62)))  # it may hold nothing but files that could not be used
        frames = self.segment_length // self.mel.hop_length
        first = int(rng.integers(max(0, self.mel.frames_of(len(piece["audio"])) - frames) + 1))
        audio, mel = cut(piece, self.mel, first, frames)
        seconds = first * self.mel.hop_length / self.mel.sample_rate + piece["about"]["start"]
        name = f"{piece['about']['file']} from {seconds:.2f} s"
        return make_item(audio, mel, frames, self.mel, rng if self.dequantize else None, name, speaker_of(piece, self.speakers))

    def _shard(self, seed: int | list[int]) -> int:
        byte = np.random.default_rng(seed).integers(self._ends[-1])
        return int(np.searchsorted(self._ends, byte, side="right"))


class ShardClips(Dataset[Item]):
    """Whole pieces, one by one, cut to a multiple of `hop_length`; otherwise as `ClipDataset`.

    Args:
        shards: To read.
        mel: As for `ShardCrops`.
        max_seconds: What lies beyond is left out.
        seed: Of the noise.
        dequantize: As for `CropDataset`.
        speakers: As for `ShardCrops`.
    """

    def __init__(
        self,
        shards: Shards,
        mel: MelSpectrogram,
        max_seconds: float | None = None,
        seed: int = 0,
        dequantize: bool = True,
        speakers: dict[str, int] | None = None,
    ) -> None:
        check_spec(next(shards.pieces()), mel, shards.path)
        self.shards, self.mel = shards, MelSpectrogram(**mel.spec)
        self.max_seconds, self.seed, self.dequantize, self.speakers = max_seconds, seed, dequantize, speakers

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be in 0 … {len(self) - 1}, got {index}.")
        piece = next(self.shards.pieces(index))
        frames = self.mel.frames_of(len(piece["audio"]), self.max_seconds)
        rng = np.random.default_rng([self.seed, index]) if self.dequantize else None
        audio, mel = cut(piece, self.mel, 0, frames)
        name = f"{index:05d}_{Path(piece['about']['file']).stem}"
        return make_item(audio, mel, frames, self.mel, rng, name, speaker_of(piece, self.speakers))


class ShardDataModule(Batches):
    """As `AudioDataModule`, from the shards that `python -m wavflow.prepare` made, which fixed the split.

    Args:
        path: What was made: a folder, or where it was copied to, s3://… or gs://….
        mel: As all that follow, see `Batches`. Its sample rate must be the shards'.
    """

    def __init__(
        self,
        mel: MelSpectrogram,
        path: str | os.PathLike[str],
        segment_length: int = 8192,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        max_clip_seconds: float | None = 10.0,
        dequantize: bool = True,
    ) -> None:
        super().__init__(mel, segment_length, batch_size, num_workers, seed, max_clip_seconds, dequantize)
        self.path = os.fspath(path).rstrip("/")
        self._shards: dict[str, Shards] = {}

    def setup(self, stage: str | None = None) -> None:
        """Opens the shards; once, whatever the stage.

        Raises:
            FileNotFoundError: There are none.
            ValueError: litdata is missing.
        """
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
        """How many shards there are to train on, and what they hold."""
        self.setup()
        shards = self._shards["train"]
        mels = "with mels" if next(shards.pieces())["mel"].size else "mels computed"
        return len(shards.files), f"shards, {self.mel.sample_rate} Hz, {mels}"

    @property
    def summary(self) -> str:
        """Shards and pieces, in words."""
        count, kind = self.contents
        pieces = ", ".join(f"{len(self._shards[split])} pieces to {split}" for split in SPLITS)
        return f"{count} {kind}: {pieces.replace('validation', 'validate')}"

    @property
    def test_files(self) -> list[Path]:
        """There are none.

        Raises:
            ValueError: Always: what needs files must be given the folder that the shards were made of.
        """
        raise ValueError(
            f"`data`: shards hold pieces, not files ({self.path}): use data=folder data.path=<what they were made of>."
        )

    def train_dataloader(self) -> DataLoader:
        self.setup()
        crops = ShardCrops(self._shards["train"], self.mel, self.segment_length, self.seed, self.dequantize, self.ids)
        return self.loader(crops, self.batch_size, self.order())

    def val_dataloader(self) -> DataLoader:
        return self._whole("validation")

    def test_dataloader(self) -> DataLoader:
        return self._whole("test")

    def _whole(self, split: str) -> DataLoader:
        self.setup()
        options = self.mel, self.max_clip_seconds, self.seed, self.dequantize, self.ids
        return self.clip_loader(ShardClips(self._shards[split], *options), len(self._shards[split]))
