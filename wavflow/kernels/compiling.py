"""Compiles loops with Numba, keeps the result on disk and logs that it compiles."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core import event

from wavflow.kernels import compiles


def compiled(function: Callable) -> Callable:
    """Compiles at the first call, and says so; kept on disk, beside its file, in the user's cache or in a temporary folder."""
    if not compiles():
        return function
    jit: Any = partial(njit, error_model="numpy", nogil=True)
    try:
        dispatcher = jit(cache=True)(function)
    except RuntimeError:  # a read-only installation, and no home
        try:
            _cache_in_temporary_folder()
        except OSError:  # nor is there any
            return jit()(function)
        dispatcher = jit(cache=True)(function)
    # Numba asks only the function's own file whether it has changed; what it calls may lie in another file, here or beside it.
    dispatcher._cache._cache_file._source_stamp = _stamp(Path(__file__).parent) + _stamp(Path(inspect.getfile(function)).parent)
    return dispatcher


def _cache_in_temporary_folder() -> None:
    """Has Numba keep code in a temporary folder, in this process and those that it starts; a warning says so."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"numba-{user}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid != user or found.st_mode & 0o170077 != stat.S_IFDIR:  # Numba unpickles: no other user may write there
        folder = Path(tempfile.mkdtemp(prefix="numba-"))
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    config.reload_config()
    warnings.warn(
        f"Compiled code is kept in {folder}, since no other folder can be written: set NUMBA_CACHE_DIR to one that lasts.",
        stacklevel=3,
    )


class _Announcer(event.Listener):
    """Logs once that wavflow code is compiled; Numba reports no event for code from its cache."""

    told = False

    def on_start(self, event: Any) -> None:
        if not self.told and str(event.data["dispatcher"].py_func.__module__).startswith("wavflow."):
            self.told = True
            logging.getLogger("wavflow").info("compiling, once on this machine: up to half a minute")

    def on_end(self, event: Any) -> None:
        pass


_announcer = _Announcer()
event.register("numba:compile", _announcer)


@cache
def _stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    return tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.glob("*.py")))
