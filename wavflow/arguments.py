"""Checks of arguments, with errors that name them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def choose(name: str, value: Any, options: Mapping[str, Any]) -> Any:
    """Returns the option of that name; raises ValueError, with all names, where there is none."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, options))}, got {value!r}.")
    return options[value]


def at_least(least: int | float, **values: Any) -> None:
    """Raises ValueError, with its name, where a value is smaller or no number, or not whole where `least` is whole."""
    whole = isinstance(least, int)
    for name, given in values.items():
        value: Any = given.item() if isinstance(given, Tensor | np.generic) and given.ndim == 0 else given
        if not isinstance(value, int if whole else (int, float)):
            raise ValueError(f"`{name}` must be a {'whole ' * whole}number, got {value!r}.")
        if not value >= least:
            raise ValueError(f"`{name}` must be at least {least:g}, got {value}.")


def check_signal(name: str, value: Tensor, batch: int) -> None:
    """Raises ValueError unless a signal is float (batch, T)."""
    if value.ndim != 2 or len(value) != batch or not value.is_floating_point():
        raise no_such_signal(name, f"({batch}, T), as many items as the mel", value)


def no_such_signal(name: str, needed: str, value: Tensor) -> ValueError:
    """Returns the error for a signal of another shape, or in whole numbers."""
    remedy = "reshape it" if value.is_floating_point() else "convert it; 16-bit audio is to be divided by 32768"
    return ValueError(f"`{name}` must be float {needed}, got {value.dtype} {tuple(value.shape)}: {remedy}.")


def as_tensor(name: str, value: Tensor | np.ndarray, device: torch.device | None = None) -> Tensor:
    """Returns a tensor as it is, and an array as a tensor of its own on a device; raises ValueError for what is neither."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value, order="C")).to(device)
    if not isinstance(value, Tensor):
        raise ValueError(f"`{name}` must be a tensor or a NumPy array, got {type(value).__name__}: convert it.")
    return value


def at_least_float32(value: Tensor | float) -> Tensor:
    """Returns a number or a tensor in float32, or as it is if it is more exact already."""
    value = torch.as_tensor(value)
    return value.to(torch.promote_types(value.dtype, torch.float32))


def check_speaker(speaker: Tensor | None, count: int) -> None:
    """Raises ValueError unless a model of so many speakers can take `speaker`: ids below `count`, or None where that is 0."""
    if speaker is None or not count:
        fits = speaker is None and not count
    elif torch.compiler.is_compiling():
        fits = True
    else:
        ids = isinstance(speaker, Tensor) and speaker.ndim == 1 and not speaker.is_floating_point()
        fits = ids and bool(((speaker >= 0) & (speaker < count)).all())
    if not fits:
        needed = f"speaker ids (B,) below {count}" if count else "no speaker"
        raise ValueError(f"`speaker`: this model takes {needed}, got {speaker}.")


def reason(error: BaseException) -> str:
    """Returns what another library says is wrong, as one line that is not too long, to be put in brackets."""
    return " ".join(str(error).split())[:300].rstrip(" .:")


@contextmanager
def about(option: str, *arguments: str, within: bool = False) -> Iterator[None]:
    """Makes errors name the option that was typed, not the arguments of the functions that it was passed to.

    Args:
        option: What was typed.
        arguments: Names that stand for it in the errors.
        within: They are parts of it instead: `layers` becomes `net.layers`.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1:
            typed = rf"`{option}.\1`" if within else f"`{option}`"
            error.args = (re.sub(rf"`({'|'.join(arguments)})`", typed, str(error)),)
        raise
