"""What the tests of faults share: options of tiny runs, what a run has logged, and whether two runs are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TRAIN, curves

import wavflow


def options_of(sounds: Path) -> list[str]:
    """Options that train something tiny and save after each step."""
    return [*TRAIN, "~callbacks.listen", "callbacks.checkpoint.minutes=0", f"data.path={sounds}"]


def teacher_options(sounds: Path) -> list[str]:
    """The same for a teacher."""
    return [*options_of(sounds), "net.whitening=6"]


def trace(run: Path) -> list[dict[str, Any]]:
    """What a run has logged, in order, each row once: a run killed at its very end says its last words again."""
    rows = curves(run)
    for row in rows:
        del row["epoch"]  # there is but one; Lightning counts it when it ends
    said = [str(row) for row in rows]  # as text, for nan is not equal to itself
    return [row for i, row in enumerate(rows) if said[i] not in said[:i]]


def assert_same(run: Path, other: Path) -> None:
    """Holds what was logged to 1e-6; weights, averages, the optimizer and the model file to the bit."""
    assert [row["step"] for row in trace(run)] == [row["step"] for row in trace(other)]
    for row, expected in zip(trace(run), trace(other), strict=True):
        assert row == pytest.approx(expected, abs=1e-6, nan_ok=True)
    one, two = (torch.load(each / "checkpoints" / "last.ckpt", weights_only=True) for each in (run, other))
    for name in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_equal(one[name], two[name])
    one, two = (wavflow.load_model(each / "model.safetensors").state_dict() for each in (run, other))
    assert_equal(one, two)


def assert_equal(one: Any, two: Any) -> None:
    """Compares nested lists and dicts of tensors and numbers to the bit."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            assert_equal(one[name], two[name])
    elif isinstance(one, list):
        for left, right in zip(one, two, strict=True):
            assert_equal(left, right)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == two
