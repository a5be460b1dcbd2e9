"""Audio files: encoded and written, as a whole or as the audio comes."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

from wavflow.arguments import as_tensor, at_least, no_such_signal
from wavflow.files import atomic_write, write_bytes

FORMATS = ("wav", "flac", "ogg", "mp3")


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
    file_format = _format_of(path)
    try:  # encoded in memory, so that a full disk is an OSError of ours and not libsndfile's
        encoded = encode_audio(audio, sample_rate, file_format, subtype)
    except ValueError as error:
        raise ValueError(f"{error} For {path} nothing was written.") from error
    write_bytes(path, encoded)


def write_chunks(path: str | os.PathLike[str], chunks: Iterable[Tensor], sample_rate: int) -> int:
    """Writes one channel as it comes, so that it never lies in memory as a whole; otherwise as `write_audio`.

    Args:
        path: As for `write_audio`.
        chunks: Audio (n,), one after the other.
        sample_rate: In Hz.

    Returns:
        The number of samples.

    Raises:
        ValueError: A chunk holds NaN or inf, there is none, or the format does not exist.
        OSError: The path can't be written.
    """
    path, samples = Path(path), 0
    file_format = _format_of(path)
    subtype = _default_subtype(file_format)
    with atomic_write(path) as part:
        try:
            with sf.SoundFile(os.fsencode(part), "w", sample_rate, 1, subtype, format=file_format) as file:
                for chunk in chunks:
                    if not torch.isfinite(chunk).all():
                        raise ValueError(f"`chunks` must be finite, got NaN or inf: check the model. {path} was not written.")
                    file.write(quantized(chunk, subtype))
                    samples += len(chunk)
        except sf.LibsndfileError as error:
            raise OSError(f"`path` must be writable, got {path} ({error.error_string}): choose another place.") from error
        if not samples:
            raise ValueError(f"`chunks` must hold some audio, got none: {path} was not written.")
    return samples


def _format_of(path: Path) -> str:
    file_format = path.suffix[1:].lower()
    if file_format not in FORMATS:
        raise ValueError(f"`path` must end in .{' or .'.join(FORMATS)}, got {str(path)!r}: choose one of these.")
    return file_format


def _default_subtype(file_format: str) -> str:
    return "PCM_16" if sf.check_format(file_format, "PCM_16") else sf.default_subtype(file_format)


def encode_audio(audio: Tensor | np.ndarray, sample_rate: int, file_format: str = "flac", subtype: str | None = None) -> bytes:
    """Returns one channel as an audio file; FLAC as small as it gets.

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
        raise no_such_signal("audio", "(T,) with T >= 1, one clip", audio)
    if not torch.isfinite(audio).all():
        raise ValueError("`audio` must be finite, got NaN or inf: check the model.")
    at_least(1, sample_rate=sample_rate)
    subtype = subtype or _default_subtype(file_format)
    if not sf.check_format(file_format, subtype):
        known = ", ".join(sf.available_subtypes(file_format))
        raise ValueError(f"`subtype` must be one of {file_format}'s ({known}), got {subtype!r}: choose one of these.")
    encoded = io.BytesIO()
    compression = 1.0 if file_format == "flac" else None  # for a lossy format it would be the lowest quality
    try:
        sf.write(encoded, quantized(audio, subtype), sample_rate, subtype, format=file_format, compression_level=compression)
    except sf.LibsndfileError as error:  # e.g. MP3 at a rate it does not know
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise ValueError(f"`sample_rate`: no {file_format} file can hold {sample_rate} Hz ({reason}).") from error
    return encoded.getvalue()


def quantized(audio: Tensor, subtype: str) -> np.ndarray:
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
