"""Arguments held against what is needed, with errors that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def choose(name: str, value: Any, options: Mapping[str, Any]) -> Any:
    """Returns the option of that name; raises ValueError, with all names, where there is none."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, options))}, got {value!r}.")
    return options[value]


def at_least(least: int, **values: int) -> None:
    """Raises ValueError, with its name, where a value is smaller."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
