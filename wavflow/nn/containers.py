"""torch's containers, typed by what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Iterable[M]) -> Sequence[M]:
    """Returns an `nn.ModuleList`, whose own type forgets what kind of modules it holds."""
    held: Any = nn.ModuleList(modules)
    return held
