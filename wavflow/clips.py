"""Checks for metrics: a clip (one channel, floating point, finite), a pair (of equal length), an optional library."""

import importlib
import warnings
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

Audio = Tensor | np.ndarray
"""One channel of audio, (T,)."""


class MissingLibraryError(ImportError):
    """A metric needs an optional library that is not installed; all other metrics can be computed."""


def optional_library(name: str, needed_by: str) -> ModuleType:
    """Imports a library of the extra `eval`, without its warnings.

    Raises:
        MissingLibraryError: It is not installed, or what it needs itself is not (pyworld: `pkg_resources`).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        finding = "is not installed" if error.name == name else f"can't be imported here ({error})"
        raise MissingLibraryError(f"`{needed_by}` needs {name}, which {finding}: pip install 'wavflow[eval]'.") from error


def checked_clip(name: str, audio: Audio) -> Tensor:
    """Returns one clip (T,) as float64 on the CPU.

    Raises:
        ValueError: It has another shape or no sample, or is not floating point or not finite.
    """
    audio = torch.as_tensor(audio).detach().cpu()
    if audio.dim() != 1 or audio.numel() == 0:
        raise ValueError(f"`{name}` must be one clip (T,) with T >= 1, got shape {tuple(audio.shape)}: pass clips one by one.")
    if not audio.is_floating_point():
        raise ValueError(f"`{name}` must be floating point in [-1, 1), got {audio.dtype}: divide 16-bit integers by 32768.")
    if not audio.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity: the clip can't be compared, leave it out.")
    return audio.double()


def checked_pair(generated: Audio, reference: Audio) -> tuple[Tensor, Tensor]:
    """Returns both clips (T,) as `checked_clip` does; ValueError, too, where they differ in length."""
    generated, reference = checked_clip("generated", generated), checked_clip("reference", reference)
    if len(generated) != len(reference):
        raise ValueError(
            f"`generated` and `reference` must be equally long, got {len(generated)} and {len(reference)} samples: "
            "align them and cut the longer one."
        )
    return generated, reference
