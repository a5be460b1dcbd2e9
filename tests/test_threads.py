"""How many threads torch takes, and how they wait."""

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from wavflow import threads


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu.max": "nonsense\n"}, math.inf),
    ],
)
def test_a_containers_quota(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("runs_on", "limit", "expected"),
    [({0, 1, 2}, "max 100000", 3), ({0, 1, 2}, "150000 100000", 2), ({5}, "150000 100000", 1), ({0, 1, 2}, "20000 100000", 1)],
)
def test_processors_are_those_that_are_free(
    runs_on: set[int], limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: runs_on, raising=False)
    monkeypatch.setattr(threads, "quota", partial(threads.quota, tmp_path))
    assert threads.processors() == expected


def test_threads_follow_the_quota_unless_the_user_has_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for allowed, given, expected in [
        (1.5, {}, "2"),
        (math.inf, {}, None),
        (8.0, {}, None),
        (1.0, {"OMP_NUM_THREADS": "3"}, "3"),
    ]:
        monkeypatch.setattr(threads, "quota", lambda allowed=allowed: allowed)
        environ = dict(given)
        threads.set_defaults(environ)
        assert environ.get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_sleep_while_they_wait_unless_the_user_wants_them_to_spin(given: dict[str, str]) -> None:
    environ = dict(given)
    threads.set_defaults(environ)
    wait = {name: environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in environ}
    assert wait == (given or {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"})


def test_importing_the_package_does_that_before_torch_comes() -> None:
    code = "import os, sys, wavflow; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'], wavflow.Vocoder.__name__)"
    environ = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    found = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "0", "Vocoder"]
