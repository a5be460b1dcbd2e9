"""Sounds that several tests judge: noise, a hum, speech; and the mark of tests that need an optional library."""

import functools
import importlib.util
import math

import pytest
import torch
from torch import Tensor

from wavflow import read_audio
from wavflow.data import bundled_speech

SAMPLE_RATE = 22050


def noise(length: int = 8000, level: float = 0.1) -> Tensor:
    return level * torch.randn(length).clamp(-4, 4)


def hum(length: int, sample_rate: int, pitch: float = 130.0) -> Tensor:
    """A buzz with ten falling harmonics: what a pitch tracker calls voiced."""
    phase = 2 * math.pi * pitch * torch.arange(length) / sample_rate
    return sum(0.3 / k * torch.sin(k * phase) for k in range(1, 11))


def speech(number: int = 1, seconds: float = 3.0) -> Tensor:
    """The beginning of a bundled recording at `SAMPLE_RATE`."""
    return recording(number)[: round(seconds * SAMPLE_RATE)].double()


@functools.cache
def recording(number: int) -> Tensor:
    return read_audio(sorted(bundled_speech().glob("*.flac"))[number], SAMPLE_RATE)[0]


def with_noise(audio: Tensor, snr_db: float) -> Tensor:
    """The clip with white noise of its own mean power less `snr_db`."""
    return audio + audio.square().mean().sqrt() * 10 ** (-snr_db / 20) * torch.randn(len(audio))


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"needs {library}: pip install 'wavflow[eval]'")
