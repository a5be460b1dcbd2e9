"""Turns what is typed after a command into Hydra's overrides, and a configuration into a dictionary.

Names and paths are taken as they are, whatever letters they hold.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from wavflow.files import check_local, check_writable

PLACES = (
    *("input", "output", "model", "teacher", "student", "reference", "generated", "start", "resume", "vocoder"),
    *("data.path", "data.table", "data.mels", "data.split", "see_also"),
)
"""Options whose value is a path or the name of a model."""

# Options whose value is never a number, a list or an expression.
TEXTS = (*PLACES, "text", "token")
# Hydra's own, with the number of values that follow.
FLAGS = {"-m": 0, "--multirun": 0, "--resolve": 0, "--hydra-help": 0, "-c": 1, "--cfg": 1, "-cd": 1, "--config-dir": 1}
# Hydra makes no folder and no log: a command makes its `output` itself, once it knows that it can begin.
NO_FILES = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled")
_KEY = re.compile(r"[~+]*[A-Za-z_$][\w$/@:-]*(\.[\w$-]+)*", re.ASCII)
_SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\(.*\)")


def overrides(typed: Sequence[str], lists: Sequence[str] = (), plain: str | None = None) -> list[str]:
    """Returns what was typed as overrides, flags first, quoted so that Hydra reads them as they were meant.

    Args:
        typed: `key=value`, plain arguments, `-o <output>` and Hydra's own flags.
        lists: Options that take several values, as `key=a,b`.
        plain: The option that plain arguments are values of; None where a command takes none.

    Raises:
        ValueError: An argument can't be read; the message holds it as it was typed.
    """
    sweeps, flags, found, arguments = "-m" in typed or "--multirun" in typed, [], [], []
    rest = iter(typed)
    for item in rest:
        if item in ("-o", "--output") or item.startswith("--output="):
            value = item.partition("=")[2] if "=" in item else _value_of(item, rest)
            found.append(_override("output", value, lists, sweeps))
        elif item in FLAGS:
            flags += [item, *(_value_of(item, rest) for _ in range(FLAGS[item]))]
        elif item.startswith("-"):
            if plain and Path(item).exists():
                raise ValueError(f"`{item}` begins like a flag: write ./{item} for the file of that name.")
            key, _, value = item.removeprefix("--").partition("=")
            remedy = "" if key.startswith("-") else f"write {key}={value or '<value>'}, or "
            raise ValueError(f"`{item}`: there is no such flag: {remedy}see --help.")
        elif plain and (item.startswith("~/") or _is_no_option(item)):
            arguments.append(item)
        elif "=" in item or item.startswith("~"):
            key, equals, value = item.partition("=")
            if not _KEY.fullmatch(key):
                raise ValueError(f"`{item}` can't be read as an option: `{key}` is no name of one: write key=value.")
            found.append(_override(key, value, lists, sweeps) if equals else item)
        else:
            raise ValueError(f"`{item}` can't be read as an option: write key=value.")
    if len(arguments) > 1 and plain not in lists:
        raise ValueError(f"`{plain}` is one, got {len(arguments)}: {', '.join(arguments)}: give one at a time.")
    if arguments:
        texts = [_text(argument) for argument in arguments]
        found.append(f"{plain}=[{','.join(texts)}]" if len(texts) > 1 else f"{plain}={texts[0]}")
    return [*flags, *found]  # Hydra refuses options on both sides of a flag


def as_dict(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Returns a configuration as plain dictionaries and lists; `${…}` stays as it is where `resolve` is false."""
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def check_places(cfg: DictConfig, shards: bool) -> None:
    """Checks the paths among the options, before any work.

    Raises:
        ValueError: When one is an address such as https://host/file; that of `shards` may be one.
        OSError: When `output` can't be written.
    """
    for key in PLACES:
        value = OmegaConf.select(cfg, key)
        for place in value if isinstance(value, ListConfig) else [value]:
            if place is not None and not (shards and key == "data.path"):
                check_local(key, str(place), "say data=shards if it holds shards, or " * (key == "data.path"))
    if (output := OmegaConf.select(cfg, "output")) not in (None, "-"):
        check_writable("output", output)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the full names of all options in nested dictionaries, and their values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _value_of(flag: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise ValueError(f"`{flag}` needs a value after it.")
    return value


def _is_no_option(item: str) -> bool:
    return "=" not in item or not _KEY.fullmatch(item.partition("=")[0]) or Path(item).exists()


def _override(key: str, value: str, lists: Sequence[str], sweeps: bool) -> str:
    if key in TEXTS:
        if not value:
            raise ValueError(f"`{key}` is empty: name something, or leave it out.")
        if value.lower() == "null" or (sweeps and _SWEEP.fullmatch(value)):
            return f"{key}={value}"
        if key in lists and not Path(value).exists():
            texts = [_text(part) for part in _parts(value.removeprefix("[").removesuffix("]"))]
            return f"{key}=[{','.join(texts)}]" if len(texts) > 1 else f"{key}={texts[0]}"
        return f"{key}={','.join(map(_text, _parts(value) if sweeps else [value]))}"
    if key in lists and "," in value and not value.startswith("["):
        return f"{key}=[{value}]"
    if value.startswith("~"):
        return f"{key}={_text(value)}"
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException as error:
        if value[:1] in ("[", "{"):
            raise ValueError(f"`{key}={value}` can't be read: a list is written [a,b], a mapping {{a: 1}}.") from error
        return f"{key}={_text(value)}"
    if override.is_sweep_override() and not sweeps:
        raise ValueError(f"`{key}` takes one value, got {value}: for a run with each of them, add -m.")
    return f"{key}={value}"


def _parts(value: str) -> list[str]:
    """Splits at commas, but not in double quotes."""
    return next(csv.reader([value], skipinitialspace=True))


def _text(value: str) -> str:
    """Quotes a text so that Hydra takes it literally; typed quotes are removed, and `~` becomes the home folder."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return QuotedString(os.path.expanduser(value), Quote.single).with_quotes()
