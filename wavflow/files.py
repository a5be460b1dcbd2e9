"""Files that are whole or not there: written beside their place and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the name of `path` at the end, or goes if the writing fails.

    Its folder is made if it is not there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Removes what a process that was killed left beside the files of a folder; none may be at work there."""
    for part in Path(folder).glob(".*.part"):
        part.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `printable` text, as UTF-8 and `aside`."""
    with aside(path) as part:
        part.write_text(printable(text), encoding="utf-8")


def printable(text: str) -> str:
    """Returns text that UTF-8 can hold: a byte of a file name in another encoding becomes `\\udcXX`, as in JSON."""
    return text.encode(errors="backslashreplace").decode()
