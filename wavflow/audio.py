"""Audio files: read, as a whole or a segment, at any sample rate; and written.

Units of the whole project: audio is float in [-1, 1), one channel, at `sample_rate` Hz; a mel is the natural log of
band magnitudes, and its frame f conditions the samples `f * hop_length … (f + 1) * hop_length - 1`.
"""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

from wavflow.arguments import as_tensor
from wavflow.files import atomic_write
from wavflow.headers import fault, with_its_length
from wavflow.resampling import ratio, resample, resampled_length, source_segment

FORMATS = ("wav", "flac", "ogg", "mp3")
"""What is written."""
OGG = ("ogg", "oga", "opus")
READABLE = (*FORMATS, "wave", "rf64", "w64", "oga", "opus", "aiff", "aif", "aifc", "au", "snd", "caf", "sph")
"""What is read: the endings under which a folder is searched."""
UNREADABLE = (
    *("m4a", "m4b", "mp4", "aac", "wma", "amr", "3gp", "ape", "wv", "tta", "alac", "mka", "webm", "weba", "spx", "ac3", "dts"),
    *("mpc", "ra", "dsf", "mp2", "raw", "pcm"),
)
"""Audio that is not read, so that it can be named."""

# libsndfile 1.2 seeks to the exact sample in WAV and FLAC. In MP3 the decoder needs some frames to settle after a seek,
# in Vorbis it may stay off by a block (libsndfile issue 885). So these are decoded from that many frames earlier, which
# are then dropped; for Vorbis that is from the beginning (some 1000 times faster than real time).
_RUN_UP = {"MP3": 2**18, "OGG": 2**62}
# Frames read at once, so that an hour of 8 channels never lies in memory. But soundfile seeks after every read, to
# where it already is, and that alone upsets MP3: it is read in one piece.
_BLOCK = {"MP3": 2**62}
_DEFAULT_BLOCK = 2**16
_PIECE = 2**20  # frames of a long file that are looked at together
_DENSEST = 2**13  # samples to a byte, which FLAC and Vorbis reach in digital silence: a header that claims more lies
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
        return _read_bytes(path if isinstance(path, bytes) else path.read(), sample_rate)
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
    """Returns a file's seconds; raises unless it looks whole: a fit header, readable to its end, finite where it could not be.

    Decodes no more than the last samples, so damage in the middle stays unseen; only float files, which may hold NaN,
    are read from end to end.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file can't be used; the message says why.
    """
    with open_audio(Path(path)) as file:
        first = 0 if file.subtype in ("FLOAT", "DOUBLE") else max(0, file.frames - _SHORTFALL - 1)
        for start in range(first, file.frames, _PIECE):
            _read_frames(file, start, min(start + _PIECE, file.frames), exact=False)
        return file.frames / file.samplerate


def write_audio(path: str | os.PathLike[str], audio: Tensor | np.ndarray, sample_rate: int, subtype: str | None = None) -> None:
    """Writes one channel, whole or not at all: the file is made aside and renamed.

    Args:
        path: Its ending chooses the format: .wav, .flac, .ogg or .mp3. Its folder is made if it is not there.
        audio: As for `encode_audio`.
        sample_rate: In Hz.
        subtype: As for `encode_audio`.

    Raises:
        ValueError: The audio has another shape, no samples, NaN or inf, or the format does not exist.
        OSError: The path can't be written.
    """
    path = Path(path)
    _check_format(path)
    try:  # encoded in memory, so that a full disk is an OSError of ours and not libsndfile's
        encoded = encode_audio(audio, sample_rate, path.suffix[1:].lower(), subtype)
    except ValueError as error:
        raise ValueError(f"{error} For {path} nothing was written.") from error
    try:
        with atomic_write(path) as part:
            part.write_bytes(encoded)
    except OSError as error:
        raise OSError(f"`path` must be writable, got {path} ({error.strerror}): choose another place.") from error


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[Tensor], sample_rate: int) -> int:
    """Writes one channel as it comes, so that it never lies in memory as a whole; otherwise as `write_audio`.

    Args:
        path: As for `write_audio`.
        pieces: Audio (n,), one after the other.
        sample_rate: In Hz.

    Returns:
        The number of samples.

    Raises:
        ValueError: A piece holds NaN or inf, there is none, or the format does not exist.
        OSError: The path can't be written.
    """
    path = Path(path)
    _check_format(path)
    file_format, samples = path.suffix[1:].lower(), 0
    subtype = _default_subtype(file_format)
    with atomic_write(path) as part:
        try:
            with sf.SoundFile(os.fsencode(part), "w", sample_rate, 1, subtype, format=file_format) as file:
                for piece in pieces:
                    if not torch.isfinite(piece).all():
                        raise ValueError(f"`pieces` must be finite, got NaN or inf: check the model. {path} was not written.")
                    file.write(_quantized(piece, subtype))
                    samples += len(piece)
        except sf.LibsndfileError as error:
            raise OSError(f"`path` must be writable, got {path} ({error.error_string}): choose another place.") from error
        if not samples:
            raise ValueError(f"`pieces` must hold some audio, got none: {path} was not written.")
    return samples


def _check_format(path: Path) -> None:
    if path.suffix[1:].lower() not in FORMATS:
        raise ValueError(f"`path` must end in .{' or .'.join(FORMATS)}, got {str(path)!r}: choose one of these.")


def _default_subtype(file_format: str) -> str:
    return "PCM_16" if sf.check_format(file_format, "PCM_16") else sf.default_subtype(file_format)


def encode_audio(audio: Tensor | np.ndarray, sample_rate: int, file_format: str = "flac", subtype: str | None = None) -> bytes:
    """Returns one channel as an audio file; FLAC at its best level.

    Args:
        audio: (T,), any float type; clipped to [-1, 1) and rounded to the nearest step.
        sample_rate: In Hz.
        file_format: One of `FORMATS`.
        subtype: libsndfile's name of the sample format, e.g. "PCM_24" or "FLOAT"; 16 bits where the format has them.

    Raises:
        ValueError: The audio has another shape, no samples, NaN or inf, or the format does not exist.
    """
    if file_format not in FORMATS:
        raise ValueError(f"`file_format` must be one of {', '.join(FORMATS)}, got {file_format!r}: choose one of these.")
    audio = as_tensor("audio", audio)
    if audio.ndim != 1 or audio.numel() == 0 or not audio.is_floating_point():
        raise ValueError(
            f"`audio` must be float (T,) with T >= 1, got {audio.dtype} {tuple(audio.shape)}: encode one clip at a time."
        )
    if not torch.isfinite(audio).all():
        raise ValueError("`audio` must be finite, got NaN or inf: check the model.")
    if sample_rate < 1:
        raise ValueError(f"`sample_rate` must be at least 1 Hz, got {sample_rate}: give the audio's own rate.")
    subtype = subtype or _default_subtype(file_format)
    if not sf.check_format(file_format, subtype):
        known = ", ".join(sf.available_subtypes(file_format))
        raise ValueError(f"`subtype` must be one of {file_format}'s ({known}), got {subtype!r}: choose one of these.")
    encoded, level = io.BytesIO(), 1.0 if file_format == "flac" else None  # for a lossy format it would be the lowest quality
    try:
        sf.write(encoded, _quantized(audio, subtype), sample_rate, subtype, format=file_format, compression_level=level)
    except sf.LibsndfileError as error:  # e.g. MP3 at a rate it does not know
        raise ValueError(f"`file_format` must be one that can hold {sample_rate} Hz, got {file_format} ({error}).") from error
    return encoded.getvalue()


def open_audio(path: Path) -> sf.SoundFile:
    """Opens a file with its true length, as `read_audio` does.

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


def _read_bytes(data: bytes, sample_rate: int | None) -> tuple[Tensor, int]:
    """`read_audio` of bytes, by way of a file, for which all checks are made."""
    if not isinstance(data, bytes):
        raise ValueError(f"`path` must be open for reading bytes, got {type(data).__name__}: open it with mode 'rb'.")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "audio"
        path.write_bytes(data)
        try:
            return read_audio(path, sample_rate)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), f"what was given ({len(data)} bytes)")) from error


def _lie(file: sf.SoundFile, size: int) -> str | None:
    """Returns what is wrong with the header of a file of so many bytes."""
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
        raise _unusable(file.path, f"reaches {peak:g}, not 1", "divide 16-bit numbers by 32768")
    return mono


def _ratio(file: sf.SoundFile, sample_rate: int | None) -> tuple[int, int]:
    if sample_rate is not None and sample_rate < 100:
        raise ValueError(f"`sample_rate` must be at least 100 Hz, got {sample_rate}: give the rate that you need.")
    return ratio(file.samplerate if sample_rate is None else sample_rate, file.samplerate)


def _quantized(audio: Tensor, subtype: str) -> np.ndarray:
    """Integers for the PCM types, because libsndfile's own scaling of floats is by 2^(n-1) - 1 and truncates."""
    audio = audio.detach().double().cpu()
    bits = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}.get(subtype)
    if bits is None:
        return audio.clamp(-1.0, 1.0 - 2.0**-15).numpy()
    scale = 2.0 ** (bits - 1)
    steps = (audio * scale).round().clamp(-scale, scale - 1)
    if bits == 16:
        return steps.to(torch.int16).numpy()
    return (steps * 2.0 ** (32 - bits)).to(torch.int32).numpy()  # libsndfile takes the upper bits
