"""A run's options, held against those of a command that goes on with it."""

import os
from pathlib import Path

import pytest
from helpers import refused

from wavflow.record import changed_options, newest_run, read_record, run_of

RUN = {
    "output": "runs/a",
    "resume": None,
    "start": None,
    "audio": {"sample_rate": 8000},
    "net": {"_target_": "wavflow.models.teacher", "layers": 4, "mel": {"sample_rate": 8000}},
    "data": {"_target_": "wavflow.data.AudioDataModule", "batch_size": 4, "seed": 0},
    "stage": {"optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3}, "power": {"_target_": "wavflow.losses.PowerLoss"}},
    "callbacks": {"save": {"path": "runs/a/model.safetensors"}, "ema": {"_target_": "wavflow.callbacks.MovingAverage"}},
    "trainer": {"max_time": None, "max_steps": 4},
}


def changed(**groups: dict) -> dict:
    """The run's options with some of a group's changed."""
    return {name: value | groups.get(name, {}) if isinstance(value, dict) else value for name, value in RUN.items()}


def test_the_same_options_change_nothing_wherever_the_run_lies() -> None:
    moved = changed(callbacks={"save": {"path": "elsewhere/model.safetensors"}}) | {"output": "elsewhere", "resume": "auto"}
    assert changed_options(RUN, moved) == []


def test_what_may_change_is_told_in_words() -> None:
    other = changed(
        stage={"optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-5}, "power": None},
        trainer={"max_time": "00:01:00:00"},
        callbacks={"listen": {"_target_": "wavflow.callbacks.Listen", "folder": "runs/a/samples"}},
    )
    assert sorted(changed_options(RUN, other)) == [
        "callbacks.listen: there from now on",
        "stage.optimizer.lr: 1e-05 from now on, 0.001 before",
        "stage.power: left out from now on",
        "trainer.max_time: 00:01:00:00 from now on",
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("audio.sample_rate", {"audio": {"sample_rate": 16000}}),
        ("net.layers", {"net": {"layers": 5}}),
        ("data.seed", {"data": {"seed": 1}}),
        ("data.split", {"data": {"split": "mine.json"}}),
        ("stage.optimizer._target_", {"stage": {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-3}}}),
        ("callbacks.ema._target_", {"callbacks": {"ema": None}}),
    ],
)
def test_what_may_not_change_is_refused_by_name(name: str, change: dict) -> None:
    refused(lambda: changed_options(RUN, changed(**change)), f"`{name}` can't change in a run that goes on, from .* to ")


def test_several_are_named() -> None:
    with pytest.raises(ValueError, match=r"`audio\.sample_rate` can't change .*, nor can net\.layers: give"):
        changed_options(RUN, changed(net={"layers": 5}, audio={"sample_rate": 1}))


def test_the_newest_run_is_that_which_saved_last(tmp_path: Path) -> None:
    assert newest_run(tmp_path / "none") is None
    for name, saved in (("b", 100), ("a", 101), ("no-checkpoint", None)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        if saved:
            (tmp_path / name / "checkpoints" / "last.ckpt").touch()
            os.utime(tmp_path / name / "checkpoints" / "last.ckpt", (saved, saved))
    assert newest_run(tmp_path) == tmp_path / "a"
    assert run_of("auto", tmp_path / "a") == tmp_path / "a"
    assert run_of("auto", tmp_path / "no-checkpoint") is None
    assert run_of(None, tmp_path / "a") is None
    assert run_of(str(tmp_path / "b" / "checkpoints" / "last.ckpt"), "elsewhere") == tmp_path / "b"


def test_a_record_that_can_not_be_read_is_none(tmp_path: Path) -> None:
    assert read_record(None) == read_record(tmp_path) == {}
    for content in ("{", "1", ""):
        (tmp_path / "config.yaml").write_text(content)
        assert read_record(tmp_path) == {}
    (tmp_path / "config.yaml").write_text("stage: {optimizer: {lr: 1.0e-05}}")
    assert read_record(tmp_path)["stage"]["optimizer"]["lr"] == 1e-5
