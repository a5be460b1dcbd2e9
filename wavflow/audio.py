"""Audio files: read, as a whole or a segment, at any sample rate; wavflow/writing.py writes them.

Units of the whole project: audio is float in [-1, 1), one channel, at `sample_rate` Hz; a mel is the natural log of
band magnitudes, and its frame f conditions the samples `f * hop_length … (f + 1) * hop_length - 1`.
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

from wavflow.arguments import at_least
from wavflow.files import in_a_file
from wavflow.headers import fault, with_its_length
from wavflow.resampling import ratio, resample, resampled_length, source_segment

OGG = ("ogg", "oga", "opus")
READABLE = ("wav", "wave", "rf64", "w64", "flac", *OGG, "mp3", "aiff", "aif", "aifc", "au", "snd", "caf", "sph")
"""Endings of the files that are read."""
UNREADABLE = (
    *("m4a", "m4b", "mp4", "aac", "wma", "amr", "3gp", "ape", "wv", "tta", "alac", "mka", "webm", "weba", "spx", "ac3", "dts"),
    *("mpc", "ra", "dsf", "mp2", "raw", "pcm"),
)
"""Endings of audio files that can't be read; warnings name such files."""

# libsndfile 1.2 seeks to the exact sample in WAV and FLAC. In MP3 the decoder needs some frames to settle after a seek,
# in Vorbis it may stay off by a block (libsndfile issue 885). So these are decoded from that many frames earlier, which
# are then dropped; for Vorbis that is from the beginning (some 1000 times faster than real time).
_RUN_UP = {"MP3": 2**18, "OGG": 2**62}
# Frames read at once, so that an hour of 8 channels never lies in memory. But soundfile seeks after every read, to
# where it already is, and that alone upsets MP3: it is read at once.
_BLOCK = {"MP3": 2**62}
_DEFAULT_BLOCK = 2**16
_CHUNK = 2**20  # frames of a long file that are looked at together
_DENSEST = 2**13  # samples to a byte, as FLAC and Vorbis have in digital silence: a header that claims more lies
_RATES = (100, 2**20)  # Hz, of a file; beyond them resampling would take memory without end
_SHORTFALL = 4096  # frames by which an intact MP3 may end before the length its header states
_LOUDEST = 8.0  # float files hold some overs; beyond this they hold integers in disguise


def read_audio(path: str | os.PathLike[str] | bytes | BinaryIO, sample_rate: int | None = None) -> tuple[Tensor, int]:
    """Reads a whole file, mixed down to one channel (the mean) and resampled.

    Args:
        path: wav, flac, ogg, opus, mp3, aiff, au or what else libsndfile reads; any rate, sample format and channel count.
            Or the bytes of such a file, or an object open for reading them; it is read from where it stands.
        sample_rate: In Hz; the file's own where none is given.

    Returns:
        Audio (T,), float32 in [-1, 1] (overs of float files are clipped), and its sample rate in Hz.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, cut short, damaged or not audio, or holds NaN.
    """
    if isinstance(path, bytes) or hasattr(path, "read"):
        data = path if isinstance(path, bytes) else path.read()
        if not isinstance(data, bytes):
            raise ValueError(f"`path` must be open for reading bytes, got {type(data).__name__}: open it with mode 'rb'.")
        with in_a_file(data, "audio", "what was given") as file:  # since all checks are of files
            return read_audio(file, sample_rate)
    with open_audio(Path(path)) as file:
        rate = file.samplerate if sample_rate is None else sample_rate
        length = resampled_length(file.frames, *_ratio(file, rate))
    return read_segment(path, 0, length, rate), rate


def read_segment(path: str | os.PathLike[str], start: int, length: int, sample_rate: int | None = None) -> Tensor:
    """Reads the samples `start … start + length - 1` of `read_audio(path, sample_rate)`, and no more than needed.

    Args:
        path: As for `read_audio`.
        start: In samples at the target rate; may be negative.
        length: In samples at the target rate. What lies outside the file is zero.
        sample_rate: The target rate, in Hz; the file's own where none is given.

    Returns:
        Audio (length,), float32 in [-1, 1].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file can't be read (see `read_audio`), or `length` is negative.
    """
    if length < 0:
        raise ValueError(f"`length` must be at least 0 samples, got {length}: ask for what you need.")
    with open_audio(Path(path)) as file:
        up, down = _ratio(file, sample_rate)
        first, last = max(start, 0), min(start + length, resampled_length(file.frames, up, down))
        if first >= last:
            return torch.zeros(length, dtype=torch.float32)
        if up == down:
            audio = _read_frames(file, first, last)
        else:
            begin, end, skip = source_segment(first, last, up, down)
            source = _read_frames(file, begin, min(end, file.frames)).astype(np.float64)
            audio = resample(source, up, down)[skip : skip + last - first].astype(np.float32)
    return torch.nn.functional.pad(torch.from_numpy(audio).clamp_(-1.0, 1.0), (first - start, start + length - last))


def audio_length(path: str | os.PathLike[str], sample_rate: int | None = None) -> int:
    """Length of `read_audio(path, sample_rate)` in samples, from the file's header alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The header is not that of an audio file, states no length, or states more than the file holds.
    """
    with open_audio(Path(path)) as file:
        return resampled_length(file.frames, *_ratio(file, sample_rate))


def audio_rate(path: str | os.PathLike[str]) -> int:
    """Sample rate of a file in Hz, from its header alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The header is not that of an audio file.
    """
    with open_audio(Path(path)) as file:
        return file.samplerate


def check_audio(path: str | os.PathLike[str]) -> float:
    """Returns the length of a file in seconds; raises unless it looks whole: a true header, a readable end, no NaN.

    Only the last samples are decoded, so damage in the middle stays unseen; but float files, which may hold NaN, are read from
    end to end.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file can't be used; the message says why.
    """
    with open_audio(Path(path)) as file:
        first = 0 if file.subtype in ("FLOAT", "DOUBLE") else max(0, file.frames - _SHORTFALL - 1)
        for start in range(first, file.frames, _CHUNK):
            _read_frames(file, start, min(start + _CHUNK, file.frames), exact=False)
        return file.frames / file.samplerate


def open_audio(path: Path) -> sf.SoundFile:
    """Opens an audio file, with its true length where the header has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be used.
    """
    if not path.exists():
        raise FileNotFoundError(f"`path` must name an audio file, but there is no {path}: check the name.")
    if path.is_dir():
        raise ValueError(f"`path` must name an audio file, got the folder {path}: name a file in it.")
    if path.stat().st_size == 0:
        raise _unusable(path, "is empty (0 bytes)")
    if wrong := fault(path):
        raise _unusable(path, wrong)
    try:
        file = sf.SoundFile(with_its_length(path) or os.fsencode(path))
        file.path = path
    except (sf.LibsndfileError, TypeError) as error:  # TypeError: .raw, which has no header
        raise _unusable(path, "is not audio that can be decoded", "convert it to wav or remove it") from error
    if lie := _lie(file, path.stat().st_size):
        file.close()
        raise _unusable(path, lie, "convert it to wav or remove it")
    return file


def _lie(file: sf.SoundFile, size: int) -> str | None:
    """Returns what can't be true in the header of a file of `size` bytes; None if all can."""
    if not 0 < file.frames < 2**48:  # libsndfile's way to say "unknown" is 2**63 - 1
        return "holds no samples, or does not say how many"
    if file.frames > _DENSEST * size:
        return f"claims {file.frames} samples in {size} bytes"
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        return f"claims {file.samplerate} samples per second, which no recording has"
    return None


def _unusable(path: Path, finding: str, remedy: str = "fetch it again or remove it") -> ValueError:
    return ValueError(f"`path` must name a whole, readable audio file, but {path} {finding}: {remedy}.")


def _read_frames(file: sf.SoundFile, first: int, last: int, exact: bool = True) -> np.ndarray:
    """Frames first … last - 1 of an open file as float32 (last - first,), channels mixed down."""
    begin = max(0, first - _RUN_UP.get(file.format, 0)) if exact else first
    position, size = begin, _BLOCK.get(file.format, _DEFAULT_BLOCK)
    try:
        mono = np.zeros(last - first, dtype=np.float32)  # takes memory only where something is read
        file.seek(begin)
        while position < last:
            block = file.read(min(size, last - position), dtype="float32", always_2d=True).mean(axis=1)
            if len(block) == 0:
                break
            kept = block[max(0, first - position) :]
            position += len(block)
            mono[position - len(kept) - first : position - first] = kept
    except (sf.LibsndfileError, MemoryError, ValueError) as error:  # ValueError: soundfile's, where a seek went astray
        raise _unusable(file.path, "is damaged or truncated") from error
    if position < min(last, file.frames - _SHORTFALL):
        raise _unusable(file.path, "is truncated")
    peak = np.abs(mono).max(initial=0.0)  # NaN and inf come through
    if not np.isfinite(peak):
        raise _unusable(file.path, "holds NaN or inf", "repair it or remove it")
    if peak > _LOUDEST:
        raise _unusable(file.path, f"has a peak of {peak:g}, not 1", "divide 16-bit numbers by 32768")
    return mono


def _ratio(file: sf.SoundFile, sample_rate: int | None) -> tuple[int, int]:
    if sample_rate is not None:
        at_least(_RATES[0], sample_rate=sample_rate)
    return ratio(file.samplerate if sample_rate is None else sample_rate, file.samplerate)
