"""Lossless coding of 16-bit audio: a teacher tells the probabilities of each next sample, and a range coder does the rest.

A file holds the coarse mel of a channel, then its samples, coded given that mel; then the next channel::

    "wavflow1" | length of the header | header, JSON | range-coded words | CRC-32 of all before

Decoding repeats the encoder's arithmetic in floating point, so it is certain on the kind of machine that encoded (processor,
versions of torch and Numba); elsewhere a number may differ in its last bit, and then nothing after it can be read. The checksum
of the samples tells: wrong audio never comes out.

References:
    Shannon (1948), section 9: -log2 p bits for what has probability p. Range coding: Martin (1979).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavflow.likelihood.levels import LevelDensity
from wavflow.likelihood.mel_code import coarse, code_mel, fine
from wavflow.likelihood.range_coding import Coder, Reader, Writer, constriction
from wavflow.synthesis.coding_kernels import FULL_SCALE, HIGHEST, LOWEST
from wavflow.vocoder import Vocoder

MAGIC = b"wavflow1"
LEAST_BITS = -math.log2(1 - 2.0**-8)  # of a sample: the coder keeps 2^-24 for each of 2^16 levels


class Coded(NamedTuple):
    """A coded file, and how many of its bits tell the mels and the samples."""

    data: bytes
    mel_bits: int
    sample_bits: int


def encode(
    pcm: np.ndarray,
    sample_rate: int,
    teacher: Vocoder,
    mel_step: float = 1.0,
    mel_stride: int = 2,
    speaker: int | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> Coded:
    """Codes audio.

    Args:
        pcm: int16 (channels, T), T >= 1.
        sample_rate: Is stored; a teacher knows best what has its own rate.
        teacher: In float32 on the CPU.
        mel_step: Of the coarse mel, in nats.
        mel_stride: Frames that share a number.
        speaker: Id, for a model with speakers.
        progress: Called with the number of samples that were coded since the last call.

    Raises:
        ValueError: Where an argument does not fit.
    """
    if pcm.dtype != np.int16 or pcm.ndim != 2 or pcm.size == 0:
        raise ValueError(f"`pcm` must be int16 (channels, T) with T >= 1, got {pcm.dtype} {pcm.shape}: convert it first.")
    if not (math.isfinite(mel_step) and mel_step >= 0.05):
        raise ValueError(f"`mel_step` must be at least .05 nats, got {mel_step}: 1 is a good value.")
    if not 1 <= mel_stride <= 16:
        raise ValueError(f"`mel_stride` must be from 1 to 16 frames, got {mel_stride}: 2 is a good value.")
    _check(teacher)
    with _one_thread():
        grids = [coarse(_mel(channel, teacher), mel_step, mel_stride) for channel in pcm]
        numbers = np.concatenate(grids, axis=None)
        header = {
            "samples": pcm.shape[1],
            "channels": len(pcm),
            "sample_rate": sample_rate,
            "speaker": speaker,
            "mel_step": mel_step,
            "mel_stride": mel_stride,
            "mel_range": [int(numbers.min()), int(numbers.max())] if numbers.size else [0, 0],
            "crc32": zlib.crc32(np.ascontiguousarray(pcm, "<i2")),
            "model": fingerprint(teacher),
        }
        writer, mel_bits = Writer(), 0
        for channel, grid in zip(pcm, grids, strict=True):
            mel_bits -= writer.bits
            code_mel(writer, grid, *header["mel_range"])
            mel_bits += writer.bits
            _code_samples(writer, channel, teacher, _told(grid, header, teacher), speaker, progress)
    text, words = json.dumps(header, separators=(",", ":")).encode(), writer.words()
    data = MAGIC + struct.pack("<I", len(text)) + text + words
    return Coded(data + struct.pack("<I", zlib.crc32(data)), mel_bits, 8 * len(words) - mel_bits)


def decode(data: bytes, teacher: Vocoder, progress: Callable[[int], None] = lambda samples: None) -> tuple[np.ndarray, int]:
    """Returns the int16 samples (channels, T) of a coded file, and their rate in Hz.

    Args:
        data: What `encode` made.
        teacher: The same that encoded.
        progress: As for `encode`.

    Raises:
        ValueError: The file is damaged or was made with another model, or this machine computes otherwise.
    """
    header, words = read_header(data)
    _check(teacher)
    if header["model"] != fingerprint(teacher):
        raise ValueError(
            f"`model` must be the one that encoded, with the fingerprint {header['model'][:12]}…, got "
            f"{fingerprint(teacher)[:12]}…: name the right one."
        )
    channels, length, bands = header["channels"], header["samples"], teacher.mel.n_mels
    pcm, reader = np.zeros((channels, length), np.int16), Reader(words)
    hops = -(-length // teacher.hop_length)
    try:
        with _one_thread():
            for channel in pcm:
                grid = np.zeros((bands, -(-hops // header["mel_stride"])), np.int32)
                code_mel(reader, grid, *header["mel_range"])
                _code_samples(reader, channel, teacher, _told(grid, header, teacher), header["speaker"], progress)
        readable = zlib.crc32(np.ascontiguousarray(pcm, "<i2")) == header["crc32"]
    except AssertionError:  # constriction's, of words that no encoder writes
        readable = False
    if not readable:
        raise ValueError(
            "`input` can't be decoded here: its samples don't add up to their checksum, because this machine computes "
            "otherwise than the one that encoded: decode where it was encoded."
        )
    return pcm, header["sample_rate"]


def read_header(data: bytes) -> tuple[dict, bytes]:
    """Returns the header and the coded words.

    Raises:
        ValueError: The data are not a whole coded file.
    """
    start = len(MAGIC) + 4
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("`input` must be a file that wavflow.compress made, but it does not begin like one: name another.")
    if len(data) < start + 4 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("`input` must be a whole file, but its checksum is not that of its bytes: fetch it again.")
    end = start + struct.unpack("<I", data[len(MAGIC) : start])[0]
    try:
        header, words = json.loads(data[start:end]), data[end:-4]
        whole = {name: header[name] for name in ("samples", "channels", "sample_rate", "mel_stride", "crc32")}
        fits = all(type(value) is int and (name != "crc32") <= value < 2**32 for name, value in whole.items())
        low, high = header["mel_range"]
        fits &= type(low) is type(high) is int and -1000 <= low <= high <= 1000 and 0.05 <= header["mel_step"] < math.inf
        fits &= header["speaker"] is None or (type(header["speaker"]) is int and 0 <= header["speaker"] < 2**32)
        fits &= header["mel_stride"] <= 16 and isinstance(header["model"], str) and len(words) % 4 == 0
        # More samples than so many bits can tell: the sizes lie.
        fits = fits and header["samples"] * header["channels"] * LEAST_BITS <= 8 * len(words) + 64
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"`input` holds a header that no encoder writes ({error}): make it again.") from error
    if not fits:
        raise ValueError("`input` holds a header that no encoder writes: make it again.")
    return header, words


def fingerprint(teacher: Vocoder) -> str:
    """Returns the SHA-256 of a model's configuration and weights."""
    digest = hashlib.sha256(json.dumps(teacher.config, sort_keys=True).encode())
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _code_samples(
    coder: Coder, samples: np.ndarray, teacher: Vocoder, mel: Tensor, speaker: int | None, progress: Callable[[int], None]
) -> None:
    """Codes one channel (T,): writes it, or fills it as it reads."""
    density = LevelDensity(teacher, mel, None if speaker is None else torch.tensor([speaker]))
    model = constriction().stream.model.CustomModel(density.cdf, density.quantile, LOWEST, HIGHEST)
    level = 0
    for t, symbol in enumerate(samples.tolist()):
        density.advance(level)
        samples[t] = level = coder(symbol, model)
        if t % 1024 == 1023 or t == len(samples) - 1:
            progress(t % 1024 + 1)


@torch.no_grad()
def _mel(channel: np.ndarray, teacher: Vocoder) -> Tensor:
    """The mel (1, n_mels, F) of samples (T,), the last frame whole."""
    audio = torch.from_numpy((channel / FULL_SCALE).astype(np.float32))
    return teacher.mel(torch.nn.functional.pad(audio, (0, -len(audio) % teacher.hop_length))[None])


def _told(grid: np.ndarray, header: dict, teacher: Vocoder) -> Tensor:
    return fine(grid, header["mel_step"], header["mel_stride"], -(-header["samples"] // teacher.hop_length))


def _check(teacher: Vocoder) -> None:
    weights = next(teacher.parameters())
    if weights.device.type != "cpu" or weights.dtype != torch.float32:
        raise ValueError(f"`teacher` must be in float32 on the CPU, got {weights.dtype} on {weights.device}: move it there.")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums that are split over threads depend on their number: encoder and decoder must not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
