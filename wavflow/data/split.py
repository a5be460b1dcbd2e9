"""Splits files into those to train, to validate and to test with: by a hash of their names, or as an earlier run did."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavflow.audio_files import common_folder

SPLITS = ("train", "validation", "test")
Split = dict[str, list[str]]
"""Names of files (see `file_name`) by part. Without `train`, all files that it does not name are for training."""


def split_files(
    paths: Sequence[Path],
    validation: float = 0.05,
    test: float = 0.1,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[list[Path], list[Path], list[Path]]:
    """Splits into train, validation and test files by a hash of each name, so that a new file does not move the others.

    With three files or more each part has at least one: a part that the hashes leave empty gets the file with the nearest hash,
    until a new file is hashed to it. Even so, no file moves from training to a part that is held out. Of two files, one is to
    train with and the other to validate *and* to test with. A single file is all three, which measures memory and not
    generalization; a warning says so.

    Args:
        paths: The files, in any order.
        validation: Fraction of the files, on average, in (0, 1).
        test: Fraction of the files, on average, in (0, 1); something must remain to train on.
        seed: Of the hash.
        folder: What names are relative to; the files' common folder if not given.

    Raises:
        ValueError: There is no file, or the fractions leave nothing.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"`validation` and `test` must be fractions above 0 that add up to less than 1, got {validation} and "
            f"{test}: lower them."
        )
    if not paths:
        raise ValueError("`paths` must hold at least one file, got none: name a folder that holds audio.")
    folder = common_folder(paths) if folder is None else folder
    place = {path: _hash(file_name(path, folder), seed) for path in paths}
    ordered = sorted(paths, key=lambda path: (place[path], path.as_posix()))
    if len(ordered) == 1:
        warnings.warn(f"There is one audio file alone, so it serves for training and testing: {ordered[0]}", stacklevel=2)
        return ordered, ordered, ordered
    if len(ordered) == 2:
        return ordered[1:], ordered[:1], ordered[:1]
    n_test = min(max(1, sum(place[path] < test for path in ordered)), len(ordered) - 2)
    n_validation = sum(test <= place[path] < test + validation for path in ordered)
    held_out = n_test + min(max(1, n_validation), len(ordered) - 1 - n_test)
    return ordered[held_out:], ordered[n_test:held_out], ordered[:n_test]


def follow_split(
    stored: Split, paths: Sequence[Path], parts: tuple[list[Path], list[Path], list[Path]], folder: str | os.PathLike[str]
) -> tuple[list[Path], list[Path], list[Path]] | None:
    """Splits as `stored` says, in its order; files that it does not name stay where they are in `parts`, or go to training.

    Where no name fits, names without folders are compared, since the files may have moved.

    Returns:
        Train, validation and test files; None where `stored` names no file that is there, or a part would be empty.
    """
    kept = _named(stored, {path: file_name(path, folder) for path in paths})
    if not any(kept) and len({path.stem for path in paths}) == len(paths):  # not 001.wav of one speaker and of another
        short = {part: [name.rpartition("/")[2] for name in names] for part, names in stored.items()}
        kept = _named(short, {path: file_name(path.name, "") for path in paths})
    if not any(kept):
        return None  # other data
    known = {path for part in kept for path in part}
    new = [[path for path in part if path not in known] for part in parts]
    if "train" not in stored:
        new = [list(dict.fromkeys(path for part in new for path in part)), [], []]  # of two files, each is in two parts
    train, validation, test = (old + more for old, more in zip(kept, new, strict=True))
    whole = all(files for part, files in zip(SPLITS, (train, validation, test), strict=True) if stored.get(part))
    return (train, validation, test) if whole else None


def file_name(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Returns the name of a file in a split: its path below a folder, without ending, with `/`."""
    relative = Path(os.path.relpath(path, folder or os.curdir)).with_suffix("").as_posix()
    return unicodedata.normalize("NFC", relative)  # some systems store accents apart


def read_split(source: str | os.PathLike[str] | Mapping[str, Any]) -> Split:
    """Reads a split from a JSON file, such as the split.json of a run, or checks one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    stored: Any = source
    if not isinstance(source, Mapping):
        if not Path(source).is_file():
            raise FileNotFoundError(f"`split` must name a JSON file such as a run's split.json, but there is no {source}.")
        try:
            stored = json.loads(Path(source).read_bytes())
        except ValueError as error:
            raise ValueError(f"`split` must be a JSON file, got {source} ({error}): take a run's split.json.") from error
    parts = [stored.get(part, []) for part in SPLITS] if isinstance(stored, Mapping) else [None]
    if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in parts) or not any(parts):
        raise ValueError(f"`split` must hold lists of names as {', '.join(SPLITS)}, got {str(stored)[:100]}.")
    return {part: stored[part] for part in SPLITS if part in stored}


def _named(stored: Split, names: dict[Path, str]) -> list[list[Path]]:
    """Returns the files that a split names, by part, in its order."""
    there: dict[str, list[Path]] = {}
    for path, name in names.items():
        there.setdefault(name, []).append(path)
    return [[path for name in stored.get(part, []) for path in there.get(name, [])] for part in SPLITS]


def _hash(name: str, seed: int) -> float:
    """Returns a number in [0, 1)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
