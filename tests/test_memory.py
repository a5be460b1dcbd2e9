"""The memory that drawing takes, measured in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import randomized, tiny_student
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import wavflow.models
from wavflow import save_model
from wavflow.benchmarking import memory


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    save_model(tiny_student(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_costs_are_measured_in_processes_of_their_own(model_file: Path) -> None:
    (row,) = memory.synthesis_costs(model_file, [0.1])
    assert row["seconds of audio"] == pytest.approx(0.1)
    assert row["x real time"] > 0
    assert row["MiB above idle"] >= 0
    assert 50 < row["MiB in all"] < 4000


def test_a_process_that_fails_is_reported_and_costs_come_in_the_order_asked_for(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        seconds = float(command[-2])
        told = "Traceback:\nthere is no model file" if seconds < 1 else ""
        return subprocess.CompletedProcess(command, len(told), "loading\n" + json.dumps({"seconds of audio": seconds}), told)

    monkeypatch.setattr(subprocess, "run", run)
    assert memory.synthesis_costs(model_file, [3, 1.5]) == [{"seconds of audio": 3}, {"seconds of audio": 1.5}]
    with pytest.raises(RuntimeError, match=r"measuring 0\.1 s of .*model\.safetensors failed: there is no model file"):
        memory.synthesis_costs(model_file, [0.1])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is counted otherwise elsewhere")
def test_a_minute_is_synthesized_within_two_gibibytes(tmp_path: Path) -> None:
    """Reckoned from 4 and 12 s of the student of the demo, at the field's mel."""
    torch.set_default_dtype(torch.float32)
    with initialize_config_module("wavflow.conf", version_base="1.3"):
        cfg = compose("train", ["stage=student", "net=student_small", "audio=22k", "output=out"])
    student = wavflow.models.build(OmegaConf.to_container(cfg.net, resolve=True))
    save_model(randomized(student, 0.01), tmp_path / "model.safetensors")
    short, long = memory.synthesis_costs(tmp_path / "model.safetensors", [4, 12])
    assert long["seconds of audio"] == pytest.approx(12, abs=0.1)
    assert long["MiB in all"] + 4 * long["MiB above idle"] < 2048
    assert 4 < long["MiB above idle"] < 3.6 * short["MiB above idle"], "memory must grow no faster than the length"
