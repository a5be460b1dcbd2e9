"""Audio in shards: a few large files of many pieces each, read from a disk or streamed from a bucket.

`prepare` (wavflow/prepare.py) writes them with litdata. A piece is a file, or a part of one longer than the limit: samples of
16 bits and, where wanted, their mel. Crops are cut out of pieces, and a piece's ends are treated as a file's.

The order of the crops is a function of (seed, index) alone, as in `CropDataset`, but it visits one shard at a time in each
of 64 lanes, and stays there for about as many crops as the shard holds::

    crop      0      1      2    ...    63     64     65
    lane      0      1      2    ...    63      0      1       index % 64
    shard    17      3     29    ...     8     17      3       drawn anew for each visit, in proportion to its bytes

So a batch mixes many shards, and yet each is fetched for a whole visit. Process r of n reads the crops r, r + n, ...: where n
divides 64, it fetches the shards of its own lanes alone, and all together read what one alone would.

References:
    litdata, https://github.com/Lightning-AI/litdata
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wavflow.data.datamodule import AudioDataModule
from wavflow.data.datasets import Item, _frames, _item, check_segment_length
from wavflow.data.split import SPLITS, Split, read_split
from wavflow.mel import MelSpectrogram

LANES = 64
"""Shards that a training draws from at once; a power of two, so that it divides among as many processes."""

REMOTE = ("s3://", "gs://", "local:")  # local: is litdata's word for a folder to be copied, e.g. of a slow network disk


def import_litdata() -> Any:
    """Returns the module litdata.

    Raises:
        ValueError: It is not installed, or what it needs is not; the message holds the command that installs it.
    """
    try:
        import litdata
    except ImportError as error:
        raise ValueError(f"`data=shards` needs litdata ({error}): pip install 'wavflow[scale]'.") from error
    return litdata


class Shards:
    """The pieces of one split, by shard and number; each process opens them for itself.

    Args:
        path: A folder, or s3://… or gs://…; what is fetched is kept in litdata's cache (`LITDATA_CACHE_DIR`).

    Raises:
        FileNotFoundError: There are no shards.
        ValueError: litdata is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: tuple[int, Any] | None = None
        self._ends: dict[int, np.ndarray] = {}
        if not path.startswith(REMOTE) and not Path(path, "index.json").is_file():
            raise FileNotFoundError(
                f"`path` must name shards, but there is no {path}/index.json: make them with `python -m wavflow.prepare`."
            )
        index = json.loads(Path(self._dataset.cache.cache_dir, "index.json").read_bytes())
        self.speakers: list[str] = index.get("speakers", [])  # of all splits; added by `prepare`
        self.files = [chunk["filename"] for chunk in index["chunks"]]
        self.sizes = np.array([chunk["chunk_bytes"] for chunk in index["chunks"]])
        self.counts = np.array([chunk["chunk_size"] for chunk in index["chunks"]])
        self._firsts = np.cumsum(self.counts) - self.counts

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_ends": {}}

    def __len__(self) -> int:
        return int(self.counts.sum())

    def piece(self, shard: int, number: int) -> dict[str, Any]:
        """Returns a piece: `audio` int16 (T,), `mel` float32 (n_mels, F), both perhaps empty, and `about`, a dictionary."""
        from litdata.streaming.sampler import ChunkedIndex

        piece = self._dataset[ChunkedIndex(index=int(self._firsts[shard]) + number, chunk_index=shard)]
        return piece | {"about": json.loads(piece["about"])}

    def pieces(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yields all pieces that hold audio, from one on, the first after the last."""
        for number in [*range(start, len(self)), *range(start)]:
            shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
            if len((piece := self.piece(shard, number - int(self._firsts[shard])))["audio"]):
                yield piece

    def draw(self, shard: int, rng: np.random.Generator) -> dict[str, Any]:
        """Draws a piece of a shard in proportion to its size."""
        if shard not in self._ends:
            self.piece(shard, 0)  # which fetches the shard: it begins with the number of its pieces and where each starts
            header = np.fromfile(Path(self._dataset.cache.cache_dir, self.files[shard]), np.uint32, self.counts[shard] + 2)
            self._ends[shard] = header[2:].astype(np.int64) - int(header[1])
        ends = self._ends[shard]
        return self.piece(shard, int(np.searchsorted(ends, rng.integers(ends[-1]), side="right")))

    @property
    def _dataset(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():  # what litdata holds, threads too, must not be forked
            dataset = import_litdata().StreamingDataset(self.path, batch_decode=0, max_pre_download=LANES)
            dataset[0]  # opens it
            dataset.on_demand_bytes = False  # else each crop would fetch its piece anew, and nothing would be kept
            self._opened = os.getpid(), dataset
        return self._opened[1]


class ShardCrops(Dataset[Item]):
    """Random crops without end, in the order that the module's docstring tells; otherwise as `CropDataset`.

    Args:
        shards: To draw from.
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
        while not len((piece := self.shards.draw(shard, rng))["audio"]):
            shard = self._shard(int(rng.integers(2**62)))  # it may hold nothing but files that could not be used
        frames = self.segment_length // self.mel.hop_length
        first = int(rng.integers(max(0, _frames(len(piece["audio"]), self.mel) - frames) + 1))
        audio, mel = cut(piece, self.mel, first, frames)
        seconds = first * self.mel.hop_length / self.mel.sample_rate + piece["about"]["start"]
        name = f"{piece['about']['file']} from {seconds:.2f} s"
        return _item(audio, mel, frames, self.mel, rng if self.dequantize else None, name, speaker_of(piece, self.speakers))

    def _shard(self, seed: int | list[int]) -> int:
        draw = np.random.default_rng(seed).integers(self._ends[-1])
        return int(np.searchsorted(self._ends, draw, side="right"))


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
        frames = _frames(len(piece["audio"]), self.mel)
        if self.max_seconds is not None:
            frames = max(1, min(frames, int(self.max_seconds * self.mel.sample_rate / self.mel.hop_length)))
        rng = np.random.default_rng([self.seed, index]) if self.dequantize else None
        audio, mel = cut(piece, self.mel, 0, frames)
        name = f"{index:05d}_{Path(piece['about']['file']).stem}"
        return _item(audio, mel, frames, self.mel, rng, name, speaker_of(piece, self.speakers))


class ShardDataModule(AudioDataModule):
    """As `AudioDataModule`, from the shards that `python -m wavflow.prepare` made, which fixed the split.

    Args:
        mel: The spectrogram that conditions the models; its sample rate must be the shards'.
        path: What was made: a folder, or where it was copied to, s3://… or gs://….
        segment_length: Of a crop, in samples, a multiple of the mel's `hop_length`.
        batch_size: Crops per training batch.
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the crops and the noise.
        max_clip_seconds: Validation and test clips are cut there; `None` keeps whole pieces.
        dequantize: Whether to add uniform noise of one 16-bit step to the audio.
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
        super().__init__(
            mel,
            None,
            segment_length,
            batch_size,
            num_workers,
            seed=seed,
            max_clip_seconds=max_clip_seconds,
            dequantize=dequantize,
        )
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
        """The names of the files that the shards were made of, where they lie here."""
        source = Path(self.path, "split.json")
        return read_split(source) if source.is_file() else {}

    def follow(self, stored: Mapping[str, Any], must_fit: bool = False) -> None:
        """Does nothing: the shards fixed the split."""

    @property
    def speakers(self) -> list[str]:
        """Names of all speakers, sorted; none where the preparation was told none."""
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
    def remarks(self) -> list[str]:
        """Nothing: the preparation told."""
        return []

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
        crops = ShardCrops(self._shards["train"], self.mel, self.segment_length, self.seed, self.dequantize, self._ids)
        return self._loader(crops, self.batch_size, self._order())

    def val_dataloader(self) -> DataLoader:
        return self._whole("validation")

    def test_dataloader(self) -> DataLoader:
        return self._whole("test")

    def _whole(self, split: str) -> DataLoader:
        self.setup()
        options = self.mel, self.max_clip_seconds, self.seed, self.dequantize, self._ids
        return self._loader(ShardClips(self._shards[split], *options), 1)


def cut(piece: dict[str, Any], mel: MelSpectrogram, first: int, frames: int) -> tuple[Tensor, Tensor]:
    """Cuts some frames' audio out of a piece, and their mel, which is that of the whole piece.

    Args:
        piece: Of `Shards`.
        mel: The spectrogram.
        first: The first frame.
        frames: How many at most.

    Returns:
        Audio (T,) and mel (n_mels, F), float32, F <= frames, as `read_crop` does.
    """
    hop, length = mel.hop_length, len(piece["audio"])
    frames = min(frames, _frames(length, mel) - first)
    margin = -(-mel.n_fft // hop)  # in frames; see wavflow/data/datasets.py
    start, stop = max(0, first - margin), min(max(length, hop), (first + frames + margin) * hop)
    audio = torch.zeros(stop - start * hop, dtype=torch.float32)
    read = piece["audio"][start * hop : stop]
    audio[: len(read)] = torch.from_numpy(read.astype(np.float32)) / 32768
    if piece["mel"].size and mel.n_mels:
        frame_mel = torch.from_numpy(piece["mel"][:, first : first + frames].copy())
    else:
        with torch.no_grad():
            frame_mel = mel(audio[None])[0][:, first - start : first - start + frames].clone()
    return audio[(first - start) * hop : min((first + frames) * hop, length) - start * hop].clone(), frame_mel


def speaker_of(piece: dict[str, Any], speakers: dict[str, int] | None) -> int | None:
    """Returns the id of who speaks in a piece, if there are ids."""
    return None if speakers is None else speakers[piece["about"]["speaker"]]


def check_spec(piece: dict[str, Any], mel: MelSpectrogram, path: str) -> None:
    """Raises ValueError unless a piece has the sample rate of a mel and, where it holds its own, was made with the same."""
    made = (piece["about"]["mel"] if mel.n_mels else None) or {"sample_rate": piece["about"]["sample_rate"]}
    if differs := ", ".join(f"{name} {value}" for name, value in made.items() if mel.spec[name] != value):
        raise ValueError(
            f"`path`: {path} was made with {differs}, not with {mel.spec}: choose the same with audio=..., or prepare it anew."
        )
