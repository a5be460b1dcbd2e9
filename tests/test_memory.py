"""The memory that drawing takes, measured in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import randomized, tiny_student

import wavflow.models
from wavflow import Vocoder, save_model
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


def test_a_process_that_fails_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"measuring 0\.1 s of .*gone\.safetensors failed: .*there is no model file"):
        memory.synthesis_costs(tmp_path / "gone.safetensors", [0.1])


def test_costs_come_in_the_order_asked_for(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        seconds = float(command[-2])
        return subprocess.CompletedProcess(command, 0, "loading\n" + json.dumps({"seconds of audio": seconds}), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert memory.synthesis_costs(model_file, [3, 1.5]) == [{"seconds of audio": 3}, {"seconds of audio": 1.5}]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is counted otherwise elsewhere")
def test_memory_grows_no_faster_than_the_length(tmp_path: Path, small_student: Callable[[], Vocoder]) -> None:
    torch.set_default_dtype(torch.float32)
    save_model(small_student(), tmp_path / "model.safetensors")

    short, long = memory.synthesis_costs(tmp_path / "model.safetensors", [6, 24])

    assert long["seconds of audio"] == pytest.approx(24, abs=0.1)
    assert long["MiB in all"] < 1536
    assert 10 < long["MiB above idle"] < 4.5 * short["MiB above idle"] + 32


@pytest.fixture
def small_student() -> Callable[[], Vocoder]:
    """The student of the demo, as conf/net/student_small.yaml says, with the field's mel."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("wavflow.conf", version_base="1.3"):
        cfg = compose("train", ["stage=student", "net=student_small", "audio=22k", "output=out"])
    return lambda: randomized(wavflow.models.build(OmegaConf.to_container(cfg.net, resolve=True)), 0.01)
