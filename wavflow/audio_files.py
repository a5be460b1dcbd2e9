"""Finds audio files, and checks which of them can be used."""

import itertools
import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from wavflow.audio import READABLE, UNREADABLE, check_audio
from wavflow.files import check_local


def files_below(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns all files below a folder that are not hidden, sorted.

    Links to folders are followed. Each folder is visited once, by its own path and not a link's, so links may form circles. A
    warning names folders that can't be read.
    """
    files: list[Path] = []
    visited, tops = set(), [Path(folder)]
    unreadable: list[OSError] = []
    while tops:  # a folder and all real ones below it; then those that links lead to
        links = []
        for place, names, here in os.walk(tops.pop(0), onerror=unreadable.append):
            if (real := os.path.realpath(place)) in visited:
                names.clear()
                continue
            visited.add(real)
            links += [Path(place, name) for name in names if os.path.islink(os.path.join(place, name))]
            files += [Path(place, name) for name in here if not name.startswith(".")]
        tops += sorted(links)
    if unreadable:
        warnings.warn(f"{counted(len(unreadable), 'folder')} left out that can't be read: {some(unreadable)}", stacklevel=2)
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Finds the audio files below a folder that `read_audio` reads, as `files_below`.

    A warning counts and names the audio of other formats.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is a file or an address, or holds no audio.
    """
    check_local("folder", folder)
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"`folder` must name a folder of audio files, but there is no {folder}: check the name.")
    if not folder.is_dir():
        raise ValueError(f"`folder` must name a folder of audio files, got the file {folder}: name the folder it lies in.")
    found = files_below(folder)
    files = [path for path in found if path.suffix[1:].lower() in READABLE]
    name_unreadable(found)
    if not files:
        raise ValueError(f"`folder` must hold {', '.join(READABLE)} files, but {folder} holds none: name another folder.")
    return files


def name_unreadable(files: Sequence[Path]) -> None:
    """Warns of audio files whose formats can't be read: how many there are, and their names."""
    if left_out := [path for path in files if path.suffix[1:].lower() in UNREADABLE]:
        warnings.warn(
            f"{counted(len(left_out), 'audio file')} left out, of a format that can't be read: {some(left_out)}. "
            f"Convert to wav or flac.",
            stacklevel=3,
        )


def usable_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the files that can be used (`check_audio`); one warning counts and names the others.

    Raises:
        ValueError: None is left.
    """
    skipped: dict[Path, Exception] = {}
    for path in paths:
        try:
            check_audio(path)
        except (ValueError, OSError) as error:
            skipped[path] = error
    files = [path for path in paths if path not in skipped]
    first = next(iter(skipped.values()), None)
    if not files:
        where = f"{len(paths)} in {common_folder(paths)}, none usable. The first: {first}" if first else "none."
        raise ValueError(f"`paths` must hold at least one usable audio file, got {where}")
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {len(paths)} audio files can't be used and are skipped: {some(skipped)}. The first: {first}",
            stacklevel=2,
        )
    return files


def some(things: Collection[Any], named: int = 20) -> str:
    """Returns the first of many things, as a list in words, and the number of the others."""
    more = f" and {len(things) - named} more" if len(things) > named else ""
    return ", ".join(map(str, itertools.islice(things, named))) + more


def counted(number: int, thing: str) -> str:
    """Returns a number of things in words: "1 step", "2,000 steps"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that all these files lie in, absolute."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))
