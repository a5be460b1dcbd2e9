"""Compiled code: said when it is made, and kept where something can be written."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from numba import config
from numba.core import caching

from wavflow.cli import quiet
from wavflow.kernels import compiling

LINE = "compiling, once on this machine: up to half a minute"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose folder for temporary files, and Numba's cache where it is named, can be written, and nothing else."""
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [caching.UserProvidedCacheLocator])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(compiling._announcer, "told", False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "named"))
    config.reload_config()
    yield tmp_path
    monkeypatch.undo()
    config.reload_config()


def double(name: str = "wavflow.double") -> Callable[[int], int]:
    """Returns a function that is compiled when it is called."""

    def function(x: int) -> int:
        return 2 * x

    function.__module__ = name
    return compiling.compiled(function)


def test_compiling_is_said_once_and_not_where_a_cache_has_the_code(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wavflow")
    assert double("another.package")(1) == 2
    assert not caplog.messages, "of other packages"
    (made := double())(1.5)
    assert caplog.messages == [LINE]
    made(1 + 2j)
    assert caplog.messages == [LINE]
    compiling._announcer.told = False
    (kept := double())(1.5)
    assert list(kept.stats.cache_hits.values()) == [1]
    assert caplog.messages == [LINE]


def test_a_terminal_alone_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.getLogger("wavflow").handlers
    monkeypatch.setattr(logging.getLogger("wavflow"), "disabled", True)  # as Hydra leaves it
    for terminal, told in ((False, ""), (True, f"wavflow: {LINE}\n")):
        compiling._announcer.told = False
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with quiet(), quiet():
            double()(1.5 if terminal else 1 + 2j)
        assert sys.stderr.getvalue() == told
    assert logging.getLogger("wavflow").handlers is before


def test_a_temporary_folder_keeps_the_code_where_no_other_can_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    config.reload_config()
    with pytest.warns(UserWarning, match="set NUMBA_CACHE_DIR") as warned:
        first, second = double(), double()
    assert len(warned) == 1
    folder = cache / f"numba-{os.getuid()}"
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder), "processes to come use it, too"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {Path(each._cache.cache_path).parent for each in (first, second)} == {folder}
    first(1)
    assert list(folder.rglob("*.nbc"))


@pytest.mark.parametrize("open_to", ["others", "links"])
def test_code_is_not_taken_from_a_folder_that_others_may_write(
    open_to: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = cache / f"numba-{os.getuid()}"
    if open_to == "others":
        planted.mkdir()
        planted.chmod(0o777)
    else:
        (cache / "elsewhere").mkdir(mode=0o700)
        planted.symlink_to(cache / "elsewhere")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    config.reload_config()
    with pytest.warns(UserWarning, match="set NUMBA_CACHE_DIR"):
        kept = Path(double()._cache.cache_path)
    assert kept.is_relative_to(cache)
    assert not kept.is_relative_to(planted)


def test_nothing_is_kept_where_nothing_can_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    config.reload_config()
    monkeypatch.setattr("tempfile.tempdir", str(cache / "missing"))
    assert double()(2) == 4
