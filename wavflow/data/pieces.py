"""Audio in litdata's shards: a few large files of many pieces each, read from a disk or streamed from a bucket.

`prepare` (wavflow/commands/prepare.py) writes them. A piece is a file, or a part of one longer than the limit: samples of 16
bits and, where wanted, their mel. A piece's ends are treated as a file's.

References:
    litdata, https://github.com/Lightning-AI/litdata
"""

import contextlib
import io
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavflow.mel import MelSpectrogram
from wavflow.mel_files import cut_with_mel

LANES = 64
"""Shards that a training reads from at once; a power of two, so that it divides among as many processes."""

PAUSES = (2, 5, 10, 20, 40)
"""Seconds to wait before a bucket is tried again; in each attempt, boto itself tries several times."""

REMOTE = ("s3://", "gs://", "local:")  # local: is litdata's word for a folder to be copied, e.g. of a slow network disk


def import_litdata() -> Any:
    """Returns the module litdata; a ValueError tells how to install it."""
    try:
        import litdata
    except ImportError as error:
        raise ValueError(f"`data=shards` needs litdata ({error}): pip install 'wavflow[scale]'.") from error
    return litdata


def bucket_and_folder(url: str) -> tuple[str, str]:
    """Returns the two parts of `s3://bucket/folder`."""
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    return bucket, folder.strip("/")


_CHECKS = {
    "s3://": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, and that the server runs",
    "gs://": "GOOGLE_APPLICATION_CREDENTIALS, and that the key may read it",
}


@contextlib.contextmanager
def one_error(path: str, needed: str = "`path` must name shards that can be read") -> Iterator[None]:
    """Turns the errors that other libraries raise for a bucket into one OSError, and hides what litdata prints."""
    checks = next((words for start, words in _CHECKS.items() if path.startswith(start)), None)
    if checks is None:
        yield
        return
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        libraries = ("boto3.", "botocore.", "google.")  # whose errors have no class in common
        if not isinstance(error, RuntimeError | OSError) and not type(error).__module__.startswith(libraries):
            raise
        reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
        raise OSError(f"{needed}, but {path} can't be ({reason}): check the name, {checks}.") from error


class Shards:
    """The pieces of one split, by shard and number; each process opens them for itself.

    Args:
        path: A folder, or s3://… or gs://…; what is fetched is kept in litdata's cache (`LITDATA_CACHE_DIR`).

    Raises:
        FileNotFoundError: There are no shards.
        OSError: A bucket can't be read, after several attempts.
        ValueError: litdata or what it needs for gs:// is missing, or the address is of another kind.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: tuple[int, Any] | None = None
        self._ends: dict[int, np.ndarray] = {}
        if "://" in path and not path.startswith(REMOTE):
            raise ValueError(f"`path` must be a folder, s3://… or gs://…, got {path}: copy the shards to one of these.")
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
        """Returns a piece: `audio` int16 (T,) and `mel` float32 (n_mels, F), which may be empty, and the dictionary `about`."""
        from litdata.streaming.sampler import ChunkedIndex

        for pause in (*PAUSES, None):
            try:
                with one_error(self.path):
                    piece = self._dataset[ChunkedIndex(index=int(self._firsts[shard]) + number, chunk_index=shard)]
                break
            except OSError as error:
                if pause is None or not self.path.startswith("s3://"):
                    raise
                warnings.warn(f"{error} It is tried again in {pause} s.", stacklevel=2)
                time.sleep(pause)
                self._opened = None  # litdata's thread has ended
        return piece | {"about": json.loads(piece["about"])}

    def pieces(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yields all pieces that hold audio, from number `start` on; after the last comes the first."""
        for number in [*range(start, len(self)), *range(start)]:
            shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
            if len((piece := self.piece(shard, number - int(self._firsts[shard])))["audio"]):
                yield piece

    def sample(self, shard: int, rng: np.random.Generator) -> dict[str, Any]:
        """Samples a piece of a shard, with a probability in proportion to its size."""
        if shard not in self._ends:
            self.piece(shard, 0)  # which fetches the shard: it begins with the number of its pieces and where each starts
            header = np.fromfile(Path(self._dataset.cache.cache_dir, self.files[shard]), np.uint32, self.counts[shard] + 2)
            self._ends[shard] = header[2:].astype(np.int64) - int(header[1])
        ends = self._ends[shard]
        return self.piece(shard, int(np.searchsorted(ends, rng.integers(ends[-1]), side="right")))

    @property
    def _dataset(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():  # what litdata holds, threads too, must not be forked
            litdata, options = import_litdata(), None
            if self.path.startswith("s3://"):
                from botocore.config import Config

                options = {"config": Config(retries={"max_attempts": 8, "mode": "standard"})}  # litdata's own are 1000
                if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
                    from litdata.streaming import downloader  # in 0.2.76 boto takes such a server, obstore does not

                    getattr(downloader, "_OBSTORE_CLIENT_OPTIONS", {})["allow_http"] = True
            try:
                with one_error(self.path):
                    dataset = litdata.StreamingDataset(
                        self.path, batch_decode=0, max_pre_download=LANES, storage_options=options
                    )
                    dataset[0]  # opens it
            except ImportError as error:
                raise ValueError(
                    f"`path`: what reads {self.path} is not installed ({str(error).partition(' HINT')[0]}): pip install "
                    "google-cloud-storage, or copy the shards to a folder or s3://…."
                ) from error
            dataset.on_demand_bytes = False  # else each crop would fetch its piece anew, and nothing would be kept
            self._opened = os.getpid(), dataset
        return self._opened[1]


def cut(piece: dict[str, Any], mel: MelSpectrogram, first: int, frames: int) -> tuple[Tensor, Tensor]:
    """Returns some frames' audio of a piece, and their mel, which is that of the whole piece; see `cut_with_mel`."""
    samples, stored, hop = torch.from_numpy(piece["audio"]), piece["mel"][:, first : first + frames], mel.hop_length

    def read(start: int, length: int) -> Tensor:
        part = samples[start : start + length].float() / 32768
        return torch.nn.functional.pad(part, (0, length - len(part)))

    if not (stored.size and mel.n_mels):
        return cut_with_mel(read, mel, first, frames, len(samples))
    return read(first * hop, min(stored.shape[1] * hop, len(samples) - first * hop)), torch.from_numpy(stored.copy())


def speaker_of(piece: dict[str, Any], speakers: dict[str, int] | None) -> int | None:
    """Returns the number of a piece's speaker; None where speakers have no numbers."""
    return None if speakers is None else speakers[piece["about"]["speaker"]]


def check_spec(piece: dict[str, Any], mel: MelSpectrogram, path: str) -> None:
    """Raises ValueError unless a piece has the sample rate of `mel`, and its mel, if it has one, the same settings."""
    made = (piece["about"]["mel"] if mel.n_mels else None) or {"sample_rate": piece["about"]["sample_rate"]}
    if differs := ", ".join(f"{name} {value}" for name, value in made.items() if mel.spec[name] != value):
        raise ValueError(
            f"`path`: {path} was made with {differs}, not with {mel.spec}: choose the same with audio=..., or prepare it anew."
        )
