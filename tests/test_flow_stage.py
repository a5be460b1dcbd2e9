"""stage=flow: WaveGlow, FloWaveNet and WaveFlow are trained, resumed and drawn from like any other model."""

import csv
import math
from pathlib import Path

import pytest
import soundfile
import torch
from commands import TRAIN, is_refused, make_sounds, succeeds

from wavflow import load_model
from wavflow.flows.static import ActNorm


@pytest.mark.parametrize("name", ["waveglow", "flowavenet", "waveflow"])
def test_a_flow_is_trained_and_draws(name: str, tmp_path: Path) -> None:
    sounds, run = make_sounds(tmp_path / "sounds"), tmp_path / "run"
    options = ["stage=flow", f"net={name}_small", "net.flows=2", *TRAIN, f"data.path={sounds}", f"output={run}"]
    assert "nats" in succeeds("train", *options).out
    model = load_model(run / "model.safetensors")
    with open(run / "logs" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    errors = [float(row["validation/round_trip"]) for row in rows if row.get("validation/round_trip")]
    assert model.draws_in_parallel
    assert model.info["steps"] == 2
    assert model.info["seconds"] > 0
    assert len(errors) >= 2
    assert max(errors) < 1e-3
    assert all(bool(norm.initialized) for norm in model.modules() if isinstance(norm, ActNorm))
    assert any(isinstance(norm, ActNorm) for norm in model.modules()) == (name == "flowavenet")
    succeeds("synthesize", f"model={run / 'model.safetensors'}", f"input={sounds / '0.wav'}", f"output={tmp_path / 'copy.wav'}")
    copy, _ = soundfile.read(tmp_path / "copy.wav")
    assert 0 < abs(copy).max() <= 1


def test_a_resumed_run_keeps_what_act_norm_started_from(tmp_path: Path) -> None:
    sounds, run = make_sounds(tmp_path / "sounds"), tmp_path / "run"
    options = ["stage=flow", "net=flowavenet_small", "net.flows=1", *TRAIN, f"data.path={sounds}", f"output={run}"]
    options += ["stage.optimizer.lr=0"]
    succeeds("train", *options)
    before = load_model(run / "model.safetensors")
    succeeds(
        "train", *options, "trainer.max_steps=4", "resume=auto", "data.path=" + str(make_sounds(tmp_path / "loud", (0.5,) * 4))
    )
    after = load_model(run / "model.safetensors")
    assert after.info["steps"] == 4
    assert after.info["seconds"] > before.info["seconds"]
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_flow_may_teach_and_learn_by_the_path_estimator(tmp_path: Path) -> None:
    sounds, run = make_sounds(tmp_path / "sounds"), tmp_path / "run"
    options = [*TRAIN, f"data.path={sounds}"]
    succeeds("train", "stage=flow", "net=waveglow_small", "net.flows=1", *options, f"output={run}")
    student = ["stage=student", f"teacher={run / 'model.safetensors'}", f"output={tmp_path / 'student'}", "net.flows=1"]
    words = "`stage.density.form` 'closed'|one autoregressive map: use 'path'"
    is_refused(tmp_path, "train", *student, "net=student_small", *options, words=words)
    words = "`stage.density.form` 'closed'|a student of inverse autoregressive flows: use 'path'"
    is_refused(tmp_path, "train", *student, "net=waveflow_small", *options, words=words)
    assert "kl" in succeeds("train", *student, "net=waveflow_small", *options, "stage.density.form=path").out


def test_nats_of_the_untrained_flow_are_those_of_the_whitening(tmp_path: Path) -> None:
    """Masked by samples, a rotated group still counts in full: the sum over a clip is right."""
    sounds, run = make_sounds(tmp_path / "sounds"), tmp_path / "run"
    nats = []
    for net, stage in (("waveglow_small", "flow"), ("teacher_small", "teacher")):
        options = [f"stage={stage}", f"net={net}", *TRAIN, f"data.path={sounds}", "overwrite=true", "stage.optimizer.lr=0"]
        succeeds("train", *options, f"output={run}")
        with open(run / "logs" / "metrics.csv", newline="") as file:
            nats.append(next(float(row["validation/nats"]) for row in csv.DictReader(file) if row.get("validation/nats")))
    assert math.isclose(*nats, abs_tol=1e-4)
