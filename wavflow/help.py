"""What `--help` shows: a command's options with the comments on them in its configuration files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from importlib import resources
from typing import Any

import yaml
from hydra import compose, initialize_config_module

from wavflow.options import as_dict, flat

CONF = resources.files("wavflow.conf")
WIDTH, INDENT = 110, 34
_KEY = re.compile(r"( *)([A-Za-z]\w*):(?:\s|$)")
_COMMENT = re.compile(r"\s# ?(.*)$")
_OF_COMMAND = re.compile(r"^For wavflow\.(\w+): (.)")
_CHOICE = re.compile(r"^  - (\w+): \S+(?: # (.*))?$", re.MULTILINE)


def help_text(command: str, overrides: Sequence[str] = ()) -> str:
    """Returns what a command does, three examples and more, its choices, and its options with their values and words.

    The options of other choices are shown where `overrides` names them, e.g. data=vctk.
    """
    with initialize_config_module("wavflow.conf", version_base="1.3"):
        cfg = compose(command, list(overrides), return_hydra_config=True)
    chosen, root = cfg.hydra.runtime.choices, (CONF / f"{command}.yaml").read_text()
    groups = {group: words or "" for group, words in _CHOICE.findall(root)}
    del cfg.hydra
    values = {key: value for key, value in flat(as_dict(cfg, resolve=False)) if not key.rpartition(".")[2].startswith("_")}
    words = words_of(root)
    for group in groups:
        words |= group_words(group, str(chosen[group]))
    lines = [line[2:] for line in root.partition("\n\n")[0].splitlines()]  # the comment at its head
    lines += ["", "Options, as key=value, each with what it is if you leave it out:"]
    lines += [_line(key, values[key], words) for key in values if key.partition(".")[0] not in groups]
    if groups:
        group = next(iter(groups))
        other = f"{group}={next(option for option in options(command, group) if option != chosen[group])}"
        lines += ["", f"Choices; each brings the options below, and --help with another, e.g. {other}, shows those of it:"]
        for group, text in groups.items():
            lines.append(_entry(f"{group}={_shown(chosen[group])}", f"{text}: {', '.join(options(command, group))}"))
    for group in groups:
        if own := [key for key in values if key.startswith(f"{group}.")]:
            said = _OF_COMMAND.sub(lambda head: head[2].upper(), about(group, str(chosen[group])))
            lines += ["", f"{group}={chosen[group]}: {said}"]
            lines += [_line(key, values[key], words) for key in own]
    lines += [
        "",
        "-o <place> is output=<place>; -m makes a run for each of several values, key=a,b; --version tells the version."
        if "output" in values
        else "--version tells the version.",
    ]
    return "\n".join(lines)


def options(command: str, group: str) -> list[str]:
    """Returns the options of a group that are for a command; the words of some say `For wavflow.<command>: `."""
    names = sorted(path.name.removesuffix(".yaml") for path in (CONF / group).iterdir() if path.name.endswith(".yaml"))
    own = {name: found[1] for name in names if (found := _OF_COMMAND.match(about(group, name)))}
    return [name for name in names if own.get(name) == command] or [name for name in names if name not in own]


def about(group: str, option: str) -> str:
    """Returns what the head of conf/<group>/<option>.yaml says of it."""
    path = CONF / group / f"{option}.yaml"
    head = re.match(r"(?:# @package .*\n)?((?:#.*\n)*)", path.read_text()) if path.is_file() else None
    return " ".join(line.removeprefix("#").strip() for line in head[1].splitlines()) if head else ""


def group_words(group: str, option: str) -> dict[str, str]:
    """Returns the comments on a group's options by their full keys; a file's own count more than those of its defaults."""
    path = CONF / group / f"{option}.yaml"
    if not path.is_file():
        return {}
    text = path.read_text()
    found: dict[str, str] = {}
    for base in yaml.safe_load(text).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found |= group_words(group, base.partition("@")[0])
    return found | words_of(text, "" if "@package _global_" in text else f"{group}.")


def words_of(text: str, prefix: str = "") -> dict[str, str]:
    """Returns the comments of a configuration file, by the full key on the same line."""
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in text.splitlines():
        if key := _KEY.match(line):
            parents = [*parents[: len(key[1]) // 2], key[2]]
            if comment := _COMMENT.search(line):
                found[prefix + ".".join(parents)] = comment[1]
    return found


def _line(key: str, value: Any, words: dict[str, str]) -> str:
    shown = _shown(value)
    shown = re.sub(r"\$\{now:[^}]*\}", "<time>", shown)
    shown = re.sub(r"\$\{(?:hydra:runtime\.choices\.)?([\w.]+)[^}]*\}", r"<\1>", shown)
    return _entry(f"{key}={'<needed>' if shown == '???' else shown}", words.get(key) or words.get(key.rpartition(".")[0], ""))


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _entry(name: str, text: str) -> str:
    lines = textwrap.wrap(text, WIDTH - INDENT, break_on_hyphens=False)  # a name is copied whole
    first = f"  {name}"
    head = [f"{first:{INDENT}}{lines.pop(0)}"] if lines and len(first) < INDENT else [first]
    return "\n".join(line.rstrip() for line in [*head, *(" " * INDENT + line for line in lines)])
