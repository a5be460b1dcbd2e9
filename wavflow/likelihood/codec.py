"""Lossless coding of 16-bit audio: a teacher tells the probabilities of each next sample, and a range coder does the rest.

A file holds a stream of bytes for each channel: its coarse mel, then its samples, coded given that mel::

    "wavflow2" | length of the header | header, JSON | stream of each channel | CRC-32 of all before

A chunk of 1,024 samples is stored as it is where coding would take more than 16 bits a sample. So is a channel whose stream
would be as long as its samples or longer; a reader knows it by its length. No file is longer than its samples and its header.

Decoding repeats the encoder's arithmetic, which is the same on every machine, see `wavflow.likelihood.arithmetic`. A checksum
guards the samples: wrong audio never comes out.

References:
    Shannon (1948), section 9: -log2 p bits for what has probability p. Range coding: Martin (1979). Ballé, Johnston & Minnen,
    Integer networks for data compression with latent-variable models (2019): a decoder must compute what the encoder did.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavflow.likelihood.exact_coding import FULL_SCALE
from wavflow.likelihood.exact_density import ExactDensity
from wavflow.likelihood.mel_code import coarse, code_mel, fine
from wavflow.likelihood.range_coding import reader, writer, written
from wavflow.models import fingerprint
from wavflow.synthesis.steps import StepEngine
from wavflow.vocoder import Vocoder

NAME, VERSION = b"wavflow", 2
LEAST_BITS = -math.log2(1 - 2.0**-14)  # that a sample takes: all other values keep an interval, too


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
        "crc32": _checksum(pcm),
        "model": fingerprint(teacher),
    }
    streams, mel_bits = [], 0
    for channel, grid in zip(pcm, grids, strict=True):
        samples = np.ascontiguousarray(channel)
        coder = writer(3 * samples.size + 4 * grid.size)
        code_mel(coder, grid, *header["mel_range"])
        of_mel = 8 * int(coder.at[0])
        for done in _density(grid, header, teacher).code(coder, samples):
            progress(done)
        stream, plain = written(coder), samples.astype("<i2").tobytes()
        streams.append(stream if len(stream) < len(plain) else plain)
        mel_bits += of_mel if len(stream) < len(plain) else 0
    header["bytes"] = [len(stream) for stream in streams]
    text = json.dumps(header, separators=(",", ":")).encode()
    data = b"".join([NAME, str(VERSION).encode(), struct.pack("<I", len(text)), text, *streams])
    return Coded(data + struct.pack("<I", zlib.crc32(data)), mel_bits, 8 * sum(header["bytes"]) - mel_bits)


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
    if header["model"] != (own := fingerprint(teacher)):
        raise ValueError(
            f"`model` must be the one that encoded, with the fingerprint {header['model'][:12]}…, got {own[:12]}…: "
            "name the right one."
        )
    pcm, start = np.zeros((header["channels"], header["samples"]), np.int16), 0
    hops = -(-header["samples"] // teacher.hop_length)
    for channel, size in zip(pcm, header["bytes"], strict=True):
        stream, start = words[start : start + size], start + size
        if size == 2 * len(channel):
            channel[:] = np.frombuffer(stream, "<i2")
            progress(len(channel))
            continue
        coder, grid = reader(stream), np.zeros((teacher.mel.n_mels, -(-hops // header["mel_stride"])), np.int32)
        code_mel(coder, grid, *header["mel_range"])
        for done in _density(grid, header, teacher).code(coder, channel):
            progress(done)
    if _checksum(pcm) != header["crc32"]:
        raise ValueError(
            "`input` can't be decoded here: its samples don't have their checksum, which no machine should cause: report it, "
            "with your versions of wavflow, Numba and NumPy."
        )
    return pcm, header["sample_rate"]


def read_header(data: bytes) -> tuple[dict, bytes]:
    """Returns the header and the coded words.

    Raises:
        ValueError: The data are not a whole coded file.
    """
    start = len(NAME) + 5
    digit = data[len(NAME) : start - 4]
    if data[: len(NAME)] != NAME or not b"1" <= digit <= b"9":
        raise ValueError("`input` must be a file that wavflow.compress made, but it does not begin like one: name another.")
    if int(digit) != VERSION:
        remedy = "update wavflow" if int(digit) > VERSION else "decode it with the wavflow that made it, and encode it again"
        raise ValueError(f"`input` must be of format {VERSION}, got {int(digit)}: {remedy}.")
    if len(data) < start + 4 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("`input` must be a whole file, but its checksum is not that of its bytes: fetch it again.")
    end = start + struct.unpack("<I", data[start - 4 : start])[0]
    try:
        header, words = json.loads(data[start:end]), data[end:-4]
        whole = {name: header[name] for name in ("samples", "channels", "sample_rate", "mel_stride", "crc32")}
        fits = all(type(value) is int and (name != "crc32") <= value < 2**32 for name, value in whole.items())
        low, high = header["mel_range"]
        fits &= type(low) is type(high) is int and -1000 <= low <= high <= 1000 and 0.05 <= header["mel_step"] < math.inf
        fits &= header["speaker"] is None or (type(header["speaker"]) is int and 0 <= header["speaker"] < 2**32)
        fits &= header["mel_stride"] <= 16 and isinstance(header["model"], str)
        sizes = header["bytes"]
        fits = fits and len(sizes) == header["channels"] and all(type(size) is int and size >= 0 for size in sizes)
        fits = fits and sum(sizes) == len(words)
        # Too few bits for that many samples: the sizes lie.
        fits = fits and header["samples"] * header["channels"] * LEAST_BITS <= 8 * len(words) + 64
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"`input` holds a header that no encoder writes ({error}): make it again.") from error
    if not fits:
        raise ValueError("`input` holds a header that no encoder writes: make it again.")
    return header, words


def _checksum(pcm: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(pcm, "<i2").tobytes())


@torch.no_grad()
def _mel(channel: np.ndarray, teacher: Vocoder) -> Tensor:
    """The mel (1, n_mels, F) of samples (T,), the last frame whole."""
    audio = torch.from_numpy((channel / FULL_SCALE).astype(np.float32))
    return teacher.mel(torch.nn.functional.pad(audio, (0, -len(audio) % teacher.hop_length))[None])


def _density(grid: np.ndarray, header: dict, teacher: Vocoder) -> ExactDensity:
    frames = -(-header["samples"] // teacher.hop_length)
    return ExactDensity(teacher, fine(grid, header["mel_step"], header["mel_stride"], frames), header["speaker"])


def _check(teacher: Vocoder) -> None:
    weights = next(teacher.parameters())
    if weights.device.type != "cpu" or weights.dtype != torch.float32:
        raise ValueError(f"`teacher` must be in float32 on the CPU, got {weights.dtype} on {weights.device}: move it there.")
    if not StepEngine.supports(teacher.flow):
        raise ValueError(
            "`teacher` must be one causal WaveNet over audio with an affine or a mixture density, as wavflow.models.teacher "
            "makes: name one."
        )
