"""Code lengths in bits per 16-bit sample: of a density, and of FLAC, the yardstick beside it."""

import math
from typing import TypeVar

import torch
from torch import Tensor

from wavflow.clips import Audio, checked_clip
from wavflow.writing import encode_audio

FULL_SCALE_16_BIT = 32768
Value = TypeVar("Value", Tensor, float)


def bits_per_sample(log_prob: Value) -> Value:
    """Code length of 16-bit audio, `(ln 32768 - log_prob) / ln 2`, in bits per sample.

    Args:
        log_prob: Log-density on [-1, 1) in nats per sample, constants included; any shape.

    Examples:
        >>> bits_per_sample(0.0)
        15.0
    """
    return (math.log(FULL_SCALE_16_BIT) - log_prob) / math.log(2)


def flac_bits(audio: Audio, sample_rate: int) -> float:
    """Bits per sample of FLAC at its best level, the lossless yardstick for a likelihood.

    The metadata (86 bytes as libsndfile writes them, .01 bits per sample of a 3 s clip) does not count, in favor of FLAC.

    Args:
        audio: (T,), int16, or float in [-1, 1], rounded to the 16-bit grid, which undoes dequantization.
        sample_rate: In Hz.

    Raises:
        ValueError: If the clip has another shape or type, is not finite or leaves [-1, 1].
    """
    audio = torch.as_tensor(audio)
    audio = checked_clip("audio", audio.double() / FULL_SCALE_16_BIT if audio.dtype == torch.int16 else audio)
    if audio.abs().max() > 1 + 1 / FULL_SCALE_16_BIT:
        raise ValueError(f"`audio` must lie in [-1, 1], got a peak of {audio.abs().max():.3g}: scale it down.")
    data = encode_audio(audio, sample_rate)
    # After the 4-byte mark come metadata blocks: a byte whose top bit says "last", three bytes of length, content.
    start, last = 4, False
    while not last:
        last = data[start] >= 0x80
        start += 4 + int.from_bytes(data[start + 1 : start + 4], "big")
    return 8 * (len(data) - start) / len(audio)
