"""Same seed, same machine: the same weights to the bit, whoever reads the data."""

from pathlib import Path

import pytest
import torch
from commands import succeeds
from runs import assert_same, teacher_options

import wavflow


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_the_same_seed_gives_the_same_weights_to_the_bit(
    stage: str, sounds: Path, student_options: list[str], tmp_path: Path
) -> None:
    options = student_options if stage == "student" else teacher_options(sounds)
    options += ["trainer.max_steps=4", "trainer.val_check_interval=3"]

    def run(name: str, *more: str) -> torch.Tensor:
        torch.rand(len(name))  # what was drawn before does not matter
        succeeds("train", *options, *more, f"output={tmp_path / name}")
        model = wavflow.load_model(tmp_path / name / "model.safetensors")
        return torch.nn.utils.parameters_to_vector(model.parameters())

    one = run("one")
    run("again", "data.num_workers=1" if stage == "teacher" else "data.num_workers=0")
    assert_same(tmp_path / "again", tmp_path / "one")
    assert not torch.equal(run("other", "seed=1"), one)
