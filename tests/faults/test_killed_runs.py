"""`kill -9` at any moment, and checkpoints damaged on the disk: a run goes on as if nothing had been."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call, succeeds
from runs import assert_same, teacher_options, trace
from torch import nn

from wavflow.checkpoints import CheckpointFile
from wavflow.resume import find_checkpoint, keep_curves


@pytest.mark.slow
def test_a_run_killed_at_random_moments_is_the_run_never_killed(student_options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).with_name("killer.py"), tmp_path, "0", "4"]
    options = [*student_options, "trainer.max_steps=20", "trainer.val_check_interval=9"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["kills"]) == 4
    for number in range(1, report["runs"]):
        assert_same(tmp_path / f"run-{number}", tmp_path / "whole")
        assert not list((tmp_path / f"run-{number}").rglob("*.part"))
    assert len(trace(tmp_path / "whole")) == 20 + 2 + 20 // 9


class Killed(BaseException):
    """A stand-in for the end of the process."""


@pytest.mark.parametrize("stage", ["teacher", "student", "flow"])
def test_each_stage_goes_on_from_any_checkpoint(
    stage: str, student_options: list[str], sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = {"teacher": ["trainer.accumulate_grad_batches=2"], "flow": ["stage=flow", "net=flowavenet_small", "net.flows=1"]}
    options = student_options if stage == "student" else [*teacher_options(sounds), *special[stage]]
    options += ["trainer.max_steps=7", "trainer.val_check_interval=4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    succeeds("train", *options, f"output={whole}")
    write = CheckpointFile.write
    left = [0]

    def write_and_die(self: CheckpointFile) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(self)

    monkeypatch.setattr(CheckpointFile, "write", write_and_die)
    for left[0] in (1, 3, 4):  # before the first checkpoint; then after two and after three more
        with pytest.raises(Killed):
            call("train", *options, f"output={killed}", "resume=auto")
    succeeds("train", *options, f"output={killed}", "resume=auto")
    assert_same(killed, whole)
    assert [row["step"] for row in trace(whole) if "train/loss" in row] == list(range(7))


def test_a_run_that_was_through_is_finished_with_the_averaged_weights(sounds: Path, tmp_path: Path) -> None:
    options = [*teacher_options(sounds), "trainer.max_steps=3"]
    succeeds("train", *options, f"output={tmp_path / 'whole'}")
    succeeds("train", *options, f"output={tmp_path / 'late'}")
    (tmp_path / "late" / "model.safetensors").unlink()  # as if killed after the last checkpoint
    succeeds("train", *options, f"output={tmp_path / 'late'}", "resume=auto")
    assert_same(tmp_path / "late", tmp_path / "whole")


def zero_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 30),
    "zeros in the middle": zero_middle,
    "text": lambda path: path.write_text("a shopping list"),
    "foreign": lambda path: torch.save({"weight": torch.ones(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_taken(damage: str, tmp_path: Path) -> None:
    task, file, last = nn.Linear(30, 40), CheckpointFile(), tmp_path / "checkpoints" / "last.ckpt"
    for step in (1, 2, 3):
        file.save_checkpoint({"state_dict": task.state_dict(), "global_step": step}, last)
        file.write()
    assert find_checkpoint("auto", tmp_path, task) == (last, 3)
    assert find_checkpoint(None, tmp_path, task) is None
    DAMAGE[damage](last)
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a whole checkpoint.*The one before it is taken, .*previous\.ckpt"):
        found = find_checkpoint("auto", tmp_path, task)
    assert found == (last.with_name("previous.ckpt"), 2)
    file.save_checkpoint({"state_dict": task.state_dict(), "global_step": 4}, last)
    file.write()
    assert find_checkpoint("auto", tmp_path, task) == (last, 4)
    assert find_checkpoint(str(found.path), tmp_path, task).step == 2, "the damaged one did not take its place"
    DAMAGE[damage](last)
    DAMAGE[damage](found.path)
    with pytest.warns(UserWarning, match="before it"), pytest.raises(ValueError, match=r"previous\.ckpt is not a whole"):
        find_checkpoint("auto", tmp_path, task)


@pytest.mark.parametrize("missing", ["last.ckpt", "previous.ckpt"])
def test_a_kill_between_the_renames_leaves_a_checkpoint(missing: str, tmp_path: Path) -> None:
    task, file, last = nn.Linear(3, 4), CheckpointFile(), tmp_path / "checkpoints" / "last.ckpt"
    for step in (1, 2):
        file.save_checkpoint({"state_dict": task.state_dict(), "global_step": step}, last)
        file.write()
    last.with_name(missing).unlink()
    assert find_checkpoint("auto", tmp_path, task).step == (1 if missing == "last.ckpt" else 2)


class Logger:
    """As much of Lightning's CSV logger as is needed: it deletes the table that it finds."""

    metrics_keys: tuple[str, ...] = ()

    def __init__(self, folder: Path, dies: bool = False) -> None:
        self.log_dir, self.dies = folder, dies

    @property
    def experiment(self) -> "Logger":
        if self.dies:
            raise Killed
        (self.log_dir / "metrics.csv").unlink(missing_ok=True)
        return self


@pytest.mark.parametrize("dies", [False, True])
def test_curves_are_kept_up_to_the_checkpoint(dies: bool, tmp_path: Path) -> None:
    head, *rows = "step,train/loss,validation/loss", "0,,9", "0,5,", "1,4,", "1,,8", "2,3,", "3,2,", "3,,", "1"
    (tmp_path / "metrics.csv").write_text("\n".join([head, *rows]))
    if dies:
        with pytest.raises(Killed):
            keep_curves(Logger(tmp_path, dies), 2)
    logger = Logger(tmp_path)
    keep_curves(logger, 2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [head, *rows[:4]]
    assert logger.metrics_keys == head.split(",")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_the_last_words_of_a_run_that_is_made_longer_are_kept(tmp_path: Path) -> None:
    lines = ["step,train/loss,validation/loss", "0,5,", "1,4,", "2,,8"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    keep_curves(Logger(tmp_path), 2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == lines
