"""Files that are whole or not there, and folders that one process has to itself."""

import errno
import getpass
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import call
from helpers import refused, tiny_teacher
from tqdm import tqdm

import wavflow
from wavflow import files
from wavflow.cli import one_line_errors, output_folder
from wavflow.files import IDLE, atomic_write, lock, sweep, unlock_all

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import demo


@pytest.fixture(autouse=True)
def _unlocked():
    yield
    unlock_all()


def test_a_new_folder_is_numbered_where_the_name_is_taken(tmp_path: Path) -> None:
    names = [output_folder(tmp_path / "runs" / "now", new=True).name for _ in range(3)]
    assert names == ["now", "now-2", "now-3"]
    assert output_folder(tmp_path / "runs" / "now").name == "now", "one that was named is taken as it is"


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: output_folder(tmp_path / "now", new=True), range(8)))
    assert {folder.name for folder in folders} == {"now", *(f"now-{i}" for i in range(2, 9))}


# Without wavflow's imports, which take seconds.
LOCKED = "import os, runpy, sys, time; print(runpy.run_path(sys.argv[1])['lock'](sys.argv[2]), flush=True); "


def locking(folder: Path, then: str, **options: Any) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", LOCKED + then, files.__file__, folder], stdout=subprocess.PIPE, **options)


def test_a_folder_that_another_process_writes_to_is_refused(tmp_path: Path) -> None:
    with locking(tmp_path, "sys.stdin.read()", stdin=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"True\n"
        with pytest.raises(OSError, match=f"`output`: another process writes to {tmp_path}: wait until it has ended"):
            output_folder(tmp_path)
        other.stdin.close()
    assert output_folder(tmp_path) == tmp_path, "it has ended"
    assert lock(tmp_path), "once more by the same process"
    assert not list(tmp_path.iterdir())


def test_a_user_may_have_a_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setattr("wavflow.commands.score.run", lambda cfg: print(getpass.getuser()))  # as torch does, at a training
    assert call("score", "input=a.wav").out == f"{os.getuid()}\n"


def test_a_forked_worker_does_not_keep_the_folder(tmp_path: Path) -> None:
    with locking(tmp_path, "time.sleep(30 * (os.fork() == 0))", start_new_session=True) as worker:
        worker.wait()
        try:
            assert lock(tmp_path)
        finally:
            os.killpg(worker.pid, 9)


def test_two_writers_of_one_file_have_a_part_each(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60 + ".txt")  # 244 bytes: no room for more
    with atomic_write(path) as one, atomic_write(path) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file_and_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        with tqdm(total=2, file=sys.stderr), one_line_errors(), atomic_write(tmp_path / "a.csv") as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")  # as of a file that is open: without a name

    with pytest.raises(SystemExit):
        fill()
    lines = re.split("[\r\n]+", capsys.readouterr().err)
    words = f"wavflow: `output` must be writable, got {tmp_path / 'a.csv'} (No space left on device): choose another place."
    assert words in lines, "and not behind the bar"
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "a.csv"):
        (tmp_path / "mel.npy").read_bytes()
    assert caught.value.filename == str(tmp_path / "mel.npy")
    assert not list(tmp_path.iterdir())


def test_unfinished_files_are_swept_once_nobody_can_be_writing_to_them(tmp_path: Path) -> None:
    other = tmp_path / ".download.part"
    old, young, later = (tmp_path / f".sound.wav.{token * 12}.part" for token in "abc")
    for path, age in ((other, 1e6), (old, 2 * IDLE), (young, 0.5 * IDLE), (later, -0.5 * IDLE)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    sweep(tmp_path, tmp_path / "none", idle=IDLE)
    assert set(tmp_path.iterdir()) == {other, young, later}
    sweep(tmp_path)  # a folder that this process has to itself
    assert set(tmp_path.iterdir()) == {other}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_model_file_keeps_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        wavflow.save_model(tiny_teacher(), tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(("status", "ends"), [(-15, "The demo was interrupted"), (143, "130")])
def test_the_demo_ends_in_one_line_when_interrupted(status: int, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        terminated = False

        def __init__(self, _: list[str]) -> None:
            pass

        def terminate(self) -> None:
            self.terminated = True

        def wait(self) -> int:
            if not self.terminated:
                raise KeyboardInterrupt
            return status

    monkeypatch.setattr(demo.subprocess, "Popen", Process)
    refused(lambda: demo.run("train"), ends, SystemExit)
