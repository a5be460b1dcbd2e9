"""Signals, a full disk and numbers that are not finite: a run ends in one line that says how to go on, or goes on itself."""

import errno
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call, contents, make_sounds, succeeds
from runs import assert_same, teacher_options

from wavflow.resume import find_checkpoint
from wavflow.training import LikelihoodTask

STEPS = ["trainer.max_steps=6", "trainer.val_check_interval=4", "callbacks.checkpoint.minutes=60"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of so many steps that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    succeeds("train", *teacher_options(make_sounds(folder / "sounds")), *STEPS, f"output={folder / 'run'}")
    return folder / "run"


def in_each(monkeypatch: pytest.MonkeyPatch, step: str, do: Callable[[LikelihoodTask, torch.Tensor], torch.Tensor]) -> None:
    """Has something done in each call of `training_step` or `validation_step`, with what it returns."""
    original = getattr(LikelihoodTask, step)
    monkeypatch.setattr(LikelihoodTask, step, lambda task, *batch: do(task, original(task, *batch)))


def resumed(err: str) -> None:
    """Calls the command that a line of help names."""
    _, _, module, *options = shlex.split(err.split("`")[-2])
    assert module == "wavflow.train"
    succeeds("train", *options)


@pytest.mark.parametrize(
    ("signum", "step", "at", "done"),
    [
        (signal.SIGUSR1, "training_step", 2, 3),
        (signal.SIGTERM, "training_step", 3, 4),
        (signal.SIGINT, "validation_step", 4, 4),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(
    signum: signal.Signals,
    step: str,
    at: int,
    done: int,
    sounds: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a step, in the step before a validation, and in a validation."""
    options, handlers = [*teacher_options(sounds), *STEPS], [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def kill(task: LikelihoodTask, result: Any) -> Any:
        if task.trainer.state.fn == "fit" and task.global_step == at:
            os.kill(os.getpid(), signum)
        return result

    with monkeypatch.context() as patch:
        in_each(patch, step, kill)
        outcome = call("train", *options, f"output={tmp_path / 'run'}")
    assert outcome.status == 128 + signum
    assert f"wavflow: stopped by {signum.name} and saved after {done} steps: go on with `python -m wavflow.train" in outcome.err
    assert len([line for line in outcome.err.splitlines() if "wavflow" in line]) == 1
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed(outcome.err)
    assert_same(tmp_path / "run", whole)


def test_ctrl_c_before_the_first_step_leaves_nothing_in_the_way(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*teacher_options(sounds), "trainer.max_steps=1", f"output={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        in_each(patch, "validation_step", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        outcome = call("train", *options)
    assert outcome.status == 130
    assert outcome.err.splitlines()[-1] == "wavflow: interrupted"
    assert (tmp_path / "run" / "config.yaml").is_file()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from there on
    succeeds("train", *options)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_validation_before_or_after_the_training_ends_at_once(
    steps: int, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*teacher_options(sounds), "trainer.max_steps=1", "trainer.val_check_interval=9", f"output={tmp_path / 'run'}"]
    ended = []

    def kill(task: LikelihoodTask, result: Any) -> Any:
        if task.global_step == steps:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(task)
        return result

    with monkeypatch.context() as patch:
        in_each(patch, "validation_step", kill)
        outcome = call("train", *options)
    assert outcome.status == 128 + signal.SIGTERM
    saved = "and saved after 1 step" if steps else "before the first step"
    assert f"wavflow: stopped by SIGTERM {saved}: go on" in outcome.err
    assert not ended, "the validation went on"
    resumed(outcome.err)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_resume_auto_takes_up_the_newest_run_of_the_stage(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*teacher_options(sounds), "trainer.val_check_interval=9", "resume=auto"]
    first = succeeds("train", *options, "trainer.max_steps=1")
    assert "resume=auto: there is no checkpoint in any run of runs/teacher, so training begins from the beginning." in first.out
    (run,) = (tmp_path / "runs" / "teacher").iterdir()
    second = succeeds("train", *options, "trainer.max_steps=2")
    assert f"Going on with runs/teacher/{run.name}/checkpoints/last.ckpt, after 1 step." in second.out
    assert list((tmp_path / "runs" / "teacher").iterdir()) == [run]
    assert "there is no checkpoint in other, so" in succeeds("train", *options, "trainer.max_steps=1", "output=other").out
    sweep = call("train", "--multirun", *options, "trainer.max_steps=2,3", f"hydra.sweep.dir={tmp_path / 'sweeps'}")
    assert "`resume`: auto can't find the runs of a sweep by itself" in sweep.err


def test_a_stopped_run_of_a_sweep_goes_on_alone(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*teacher_options(sounds), *STEPS, f"output={tmp_path / 'run'}", f"hydra.sweep.dir={tmp_path / 'sweeps'}"]

    def kill(task: LikelihoodTask, result: Any) -> Any:
        if task.global_step == 1 and task.optimizers().param_groups[0]["lr"] > 0.01:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patch:
        in_each(patch, "training_step", kill)
        outcome = call("train", "--multirun", "stage.optimizer.lr=0.001,0.1", "stage.warmup_steps=1", *options)
    assert "stage.optimizer.lr=0.1 " in outcome.err.split("`")[-2]
    assert not (tmp_path / "run-1" / "model.safetensors").exists()
    resumed(outcome.err)
    assert sorted(path.name for path in tmp_path.glob("run-*")) == ["run-0", "run-1"]
    assert (tmp_path / "run-1" / "model.safetensors").is_file()


def test_a_full_disk_keeps_the_checkpoint_before(
    sounds: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*teacher_options(sounds), *STEPS[:2]]
    write_bytes, writes = Path.write_bytes, 0

    def fill(path: Path, data: Any) -> int:
        nonlocal writes
        if ".last.ckpt." not in path.name:
            return write_bytes(path, data)
        writes += 1
        if writes <= 3:
            return write_bytes(path, data)
        write_bytes(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        outcome = call("train", *options, f"output={tmp_path / 'run'}")
    assert outcome.status == 1
    assert "No space left on device" in outcome.err
    assert "what was saved before is whole. Make room" in outcome.err
    assert contents(tmp_path / "run" / "checkpoints") == {"last.ckpt", "previous.ckpt"}, "and nothing half-written"
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    resumed(outcome.err)
    assert_same(tmp_path / "run", whole)


def test_too_many_in_a_row_end_the_run_with_a_diagnosis(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_each(monkeypatch, "training_step", lambda task, loss: loss * (torch.nan if task.global_step in (1, 3, 4, 5) else 1))
    options = [*teacher_options(sounds), "trainer.max_steps=9", "callbacks.skip.limit=3"]
    with pytest.warns(UserWarning, match="A step is skipped") as caught:
        outcome = call("train", *options, f"output={tmp_path / 'run'}")
    assert len([each for each in caught if "skipped" in str(each.message)]) == 2
    assert outcome.status == 1
    for words in ("3 steps in a row", "of step 5", "loss nan", "clamp fraction 0", "largest log scale", ".wav from ", "lr"):
        assert words in outcome.err
    task = torch.nn.Module()
    with pytest.raises(ValueError, match="another net"):  # whole, that is
        find_checkpoint("auto", tmp_path / "run", task)
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in last["current_model_state"].values())
