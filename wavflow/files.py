"""Writes files aside and renames them, so that each is whole or not there; and keeps folders for one process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

UNFINISHED = f".*.{'[0-9a-f]' * 12}.part"
"""The files that `atomic_write` writes to."""

IDLE = 3600.0
"""Seconds without a write after which no living process can own an unfinished file: they write every few seconds."""

_locked: dict[Path, int] = {}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path beside `path` to write to, which is renamed to `path` at the end, or removed if the writing fails.

    The folder is made if it is not there. No other process, on this machine or another, gets the same path. The file's
    permissions are those of the umask.

    Raises:
        OSError: The path can't be written; the error names it.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
        mode = part.stat().st_mode & 0o777
        yield part
        part.chmod(mode)
        os.replace(part, path)
    except OSError as error:
        own = {str(file) for file in (None, part, path, *path.parents)}  # a full disk names no file
        if error.errno is None or str(error.filename) not in own:  # worded already, or of a file that is read meanwhile
            raise
        raise OSError(f"`path` must be writable, got {path} ({error.strerror}): choose another place.") from error
    finally:
        with contextlib.suppress(OSError):  # of a folder that could not be made
            part.unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes bytes, as `atomic_write`."""
    with atomic_write(path) as part:
        part.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `printable` text, as UTF-8 and `atomic_write`."""
    with atomic_write(path) as part:
        part.write_text(printable(text), encoding="utf-8")


def printable(text: str) -> str:
    """Returns text that UTF-8 can hold: a byte of a file name in another encoding becomes `\\udcXX`, as in JSON."""
    return text.encode(errors="backslashreplace").decode()


def read_lines(path: str | os.PathLike[str]) -> list[Any]:
    """Returns the lines of a file of JSON lines; one that was cut short as its process was killed is left out."""
    found = []
    for line in Path(path).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


@contextlib.contextmanager
def in_a_file(data: bytes, name: str, words: str) -> Iterator[Path]:
    """Yields a file of a name that holds some bytes, for what reads files alone; errors call it by `words`, not by its path."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            yield path
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), f"{words} ({len(data)} bytes)")) from error


def sweep(*folders: str | os.PathLike[str], idle: float = 0.0) -> None:
    """Removes the unfinished files that killed processes left in folders, but not below them.

    Where other processes may be writing there, on this machine or another, `idle` must be `IDLE`: process ids mean nothing on
    another machine, and many network disks do not share locks. A process that was suspended for longer loses its file: the
    renaming fails, and the next run makes the file again.

    Args:
        folders: That need not be there.
        idle: In seconds; files that were written to since are left alone.
    """
    for part in (part for folder in folders for part in Path(folder).glob(UNFINISHED)):
        with contextlib.suppress(OSError):  # another process sweeps too, or it is another user's
            if not idle or part.stat().st_mtime < time.time() - idle:
                part.unlink()


def check_local(name: str, path: str | os.PathLike[str], hint: str = "") -> None:
    """Raises ValueError where a path is an address, such as gs://bucket/folder: as a path it would be a folder `gs:`."""
    if re.match(r"[A-Za-z][\w+.-]+://", os.fspath(path)):
        raise ValueError(
            f"`{name}` must be a file or folder here, got {path}: {hint}mount it, or copy it by a tool of that place."
        )


def check_writable(name: str, path: str | os.PathLike[str]) -> None:
    """Raises OSError where no file or folder can be made or written at a path; called before the work, so that none is lost."""
    whole = Path(path).absolute()
    there = next(place for place in (whole, *whole.parents) if os.path.exists(place))
    folder = whole.parent if there == whole and there.is_file() else there
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = f"no permission to write to {folder}" if folder.is_dir() else f"{folder} is a file"
        raise OSError(f"`{name}` must be writable, got {path} ({reason}): choose another place.")


def lock(folder: str | os.PathLike[str], shared: bool = False) -> bool:
    """Locks a folder for as long as this process lives; returns whether no other process has locked it.

    Several processes may lock it `shared`, for parts of one command. Nothing is written. On Windows and on some network disks
    there are no locks: the answer is always yes.
    """
    try:
        import fcntl
    except ImportError:
        return True
    folder = Path(folder).resolve()
    if folder not in _locked:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            return not isinstance(error, BlockingIOError)
        _locked[folder] = handle
    return True


def unlock_all() -> None:
    """Unlocks all folders that this process has locked."""
    while _locked:
        os.close(_locked.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=unlock_all)  # a worker that outlives this process must not keep its locks
