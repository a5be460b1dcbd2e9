"""The memory that drawing takes, measured in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import randomized
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import wavflow.models
from wavflow.benchmarking import memory


def test_costs_come_in_the_order_asked_for_and_a_process_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        seconds = float(command[-2])
        out = "loading\n" + json.dumps({"seconds of audio": seconds})
        return subprocess.CompletedProcess(command, int(seconds == 9.0), out, "Traceback\nValueError: no model\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert memory.synthesis_costs("model", [3, 1.5]) == [{"seconds of audio": 3}, {"seconds of audio": 1.5}]
    with pytest.raises(RuntimeError, match=r"^measuring 9 s of model failed: ValueError: no model$"):
        memory.synthesis_costs("model", [3, 9])


@pytest.mark.slow
def test_memory_grows_no_faster_than_the_length(tmp_path: Path) -> None:
    """Of the student of the demo, as conf/net/student_small.yaml says, with the field's mel."""
    torch.set_default_dtype(torch.float32)
    with initialize_config_module("wavflow.conf", version_base="1.3"):
        cfg = compose("train", ["stage=student", "net=student_small", "audio=22k", "output=out"])
    student = randomized(wavflow.models.build(OmegaConf.to_container(cfg.net, resolve=True)), 0.01)
    wavflow.save_model(student, tmp_path / "model.safetensors")

    short, long = memory.synthesis_costs(tmp_path / "model.safetensors", [3, 12])

    assert [short["seconds of audio"], long["seconds of audio"]] == pytest.approx([3, 12], abs=0.1)
    assert long["x real time"] > 0
    assert 50 < long["MiB in all"] < 1536
    if sys.platform.startswith("linux"):  # resident memory is counted otherwise elsewhere
        assert 10 < long["MiB above idle"] < 4.5 * short["MiB above idle"] + 16
