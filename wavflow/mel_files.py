"""Mels from files: computed from audio, as a whole or in segments, or stored as arrays."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wavflow.arguments import about, at_least, reason
from wavflow.audio import OGG, audio_length, read_audio, read_segment
from wavflow.mel import MelSpectrogram
from wavflow.mel_scale import MelScale, check_scale, warn_of_log10

MEL_FORMATS = ("npy", "pt", "safetensors")


def load_mel(path: str | os.PathLike[str], mel: MelSpectrogram, scale: MelScale | None = None) -> Tensor:
    """Returns the mel (1, n_mels, F) of an audio file, or the one stored in a .npy, .pt or .safetensors file.

    Arrays are (n_mels, F) or (1, n_mels, F), log-mels in the convention of `mel`, or of another `scale` that they are converted
    from. A .safetensors file holds the tensor `mel` and may name its settings in its metadata, as JSON under `spec`; they are
    then held against the model's. Nothing is unpickled.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it cannot be read, or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`input`: there is no file {path}.")
    if path.suffix.lower().lstrip(".") not in MEL_FORMATS:
        with about("input", "path"):
            audio, _ = read_audio(path, mel.sample_rate)
        with torch.no_grad():
            short = -len(audio) % mel.hop_length  # the last frame whole, so that no sound is lost
            return mel(torch.nn.functional.pad(audio, (0, short))[None].to(mel.window.device))
    loaded = stored_mel(path, mel)
    loaded = loaded if scale is None else scale(loaded)
    with _naming(path):
        check_scale(loaded, mel)
    return loaded


def stored_mel(path: str | os.PathLike[str], mel: MelSpectrogram, name: str = "input") -> Tensor:
    """Returns the mel (1, n_mels, F) of a .npy, .pt or .safetensors file as it is, of whatever scale; `name` is for errors."""
    path = Path(path)
    loaded, spec = _read_array(path, name, "a mel")
    loaded = loaded.float() if loaded.is_floating_point() else loaded
    loaded = loaded.unsqueeze(0) if loaded.dim() == 2 else loaded
    with _naming(path):
        mel.check(loaded, spec)
        if len(loaded) != 1:
            raise ValueError(f"`mel` must be one clip's, got {len(loaded)} in one file: save each to a file of its own.")
    return loaded


def mel_frames(path: str | os.PathLike[str], mel: MelSpectrogram, name: str = "input") -> int:
    """Returns the number of frames of a stored mel; of a .npy file no more is read than its header. `name` is for errors.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it cannot be read, or has another shape than such mels.
    """
    if Path(path).is_file() and Path(path).suffix.lower() == ".npy":
        try:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        except (OSError, ValueError, EOFError):  # worded below
            shape = ()
        if shape[:-1] in ((mel.n_mels,), (1, mel.n_mels)):
            return shape[-1]
    return stored_mel(path, mel, name).shape[-1]


def read_scale(
    scale: str | None, mean: float | str | os.PathLike[str] | None = None, std: float | str | os.PathLike[str] | None = None
) -> MelScale | None:
    """Returns the scale that the options name, see `MelScale`; None where no option is given.

    Args:
        scale: Its name; "ln" where it is None.
        mean: A number, or a .npy, .pt or .safetensors file of one for each band.
        std: Likewise.
    """
    if scale is None and mean is None and std is None:
        return None
    given = (("mean", mean), ("std", std))
    return MelScale(scale or "ln", **{name: _numbers(name, value) for name, value in given if value is not None})


def _numbers(name: str, value: float | str | os.PathLike[str]) -> float | Tensor:
    if isinstance(value, int | float):
        return value
    try:
        return float(os.fspath(value))  # a number in quotes
    except ValueError:
        return _read_array(Path(value), f"mel_{name}", "numbers")[0].squeeze()


def mel_chunks(
    path: str | os.PathLike[str], mel: MelSpectrogram, frames: int = 256, scale: MelScale | None = None
) -> Iterator[Tensor]:
    """Yields the mel of a file, see `load_mel`, in chunks (1, n_mels, `frames` at most); of audio no more is read than that.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it cannot be read, or does not fit.
    """
    at_least(1, frames=frames)
    ending = Path(path).suffix.lower().lstrip(".")
    if not Path(path).is_file() or ending in MEL_FORMATS or ending in OGG:  # which can only be read from its start
        whole = load_mel(path, mel, scale)
        if scale is None and ending in MEL_FORMATS:
            warn_of_log10(whole, mel)
        yield from whole.split(frames, dim=-1)
        return
    with about("input", "path"):
        length = audio_length(path, mel.sample_rate)
    whole_hops = -(-length // mel.hop_length)
    for first in range(0, whole_hops, frames):
        with about("input", "path"):
            chunk = read_with_mel(path, mel, first, frames, whole_hops * mel.hop_length)[1]
        yield chunk[None]


def read_with_mel(
    path: str | os.PathLike[str], mel: MelSpectrogram, first: int, frames: int, length: int, rate: int | None = None
) -> tuple[Tensor, Tensor]:
    """Reads the audio of some frames of an audio file with their mel; see `cut_with_mel`.

    At a `rate` other than the mel's the audio plays slower and lower, or faster and higher; `length` is then in its samples.
    """
    return cut_with_mel(partial(read_segment, path, sample_rate=rate or mel.sample_rate), mel, first, frames, length)


def cut_with_mel(
    read: Callable[[int, int], Tensor], mel: MelSpectrogram, first: int, frames: int, length: int
) -> tuple[Tensor, Tensor]:
    """Returns the audio of some frames with their mel, which is cut out of the mel of the *whole* audio.

    A frame near the edge of a segment looks beyond it, so a margin is read on either side::

        audio    |······························································|
        read             |-- n_fft --|====== segment =======|-- n_fft --|
        frames                       |   |   |   |   |   |   |                  (the segment starts on a frame)

    At the audio's own ends the margin ends too, and the reflection there is the one that the whole audio's mel has.

    Args:
        read: Takes a start and a length in samples; returns audio (length,), with zeros beyond the end.
        mel: The spectrogram.
        first: The first frame.
        frames: How many at most; fewer come where the audio ends.
        length: Of the audio, in samples. Less than a hop counts as one frame.

    Returns:
        Audio (T,) and mel (n_mels, F), F <= frames; T = F * hop_length, or less in audio shorter than a hop.
    """
    hop = mel.hop_length
    frames = min(frames, mel.frames_of(length) - first)
    margin = -(-mel.n_fft // hop)
    start = max(0, first - margin)
    stop = min(max(length, hop), (first + frames + margin) * hop)
    audio, skip = read(start * hop, stop - start * hop), first - start
    with torch.no_grad():
        whole = mel(audio[None].to(mel.window.device))[0]
    return audio[skip * hop : min((skip + frames) * hop, length)].clone(), whole[:, skip : skip + frames].clone()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_array(path: Path, name: str, what: str) -> tuple[Tensor, dict | None]:
    try:
        return _load_array(path)
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"`{name}`: {path} can't be read as {what} ({reason(error)}).") from error
    except Exception as error:
        raise ValueError(f"`{name}`: {path} holds no plain tensor ({type(error).__name__}): save {what} as one.") from error


def _load_array(path: Path) -> tuple[Tensor, dict | None]:
    kind = path.suffix.lower()
    if kind == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False)), None
    if kind == ".pt":
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                    raise ValueError("its parts are larger than itself")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(loaded, Tensor) or loaded.layout != torch.strided:
            raise ValueError(f"it holds a {type(loaded).__name__}, not a plain tensor")
        if loaded.nbytes > loaded.untyped_storage().nbytes():
            raise ValueError(f"its shape {tuple(loaded.shape)} claims more numbers than it holds")
        return loaded, None
    with safe_open(path, framework="pt") as file:
        spec = json.loads((file.metadata() or {}).get("spec", "null"))
        if not isinstance(spec, dict | None):
            raise ValueError(f"its `spec` is no object of settings, but {spec!r}")
        return file.get_tensor("mel"), spec
