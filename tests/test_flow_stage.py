"""stage=flow: WaveGlow, FloWaveNet and WaveFlow are trained, resumed and drawn from like any other model."""

import math
from pathlib import Path

import pytest
import soundfile
import torch
from commands import TRAIN, curves, is_refused, make_sounds, succeeds

from wavflow import load_model
from wavflow.flows.static import ActNorm


def options_of(name: str, sounds: Path) -> list[str]:
    return ["stage=flow", f"net={name}_small", "net.flows=2", *TRAIN, f"data.path={sounds}"]


def nats(run: Path) -> float:
    """Of the untrained net on the held-out clip."""
    return next(row["validation/nats"] for row in curves(run) if "validation/nats" in row)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def waveglow(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its run."""
    run = tmp_path_factory.mktemp("waveglow")
    assert "nats" in succeeds("train", *options_of("waveglow", sounds), f"output={run}").out
    return run


@pytest.mark.parametrize("name", ["waveglow", "flowavenet", "waveflow"])
def test_a_flow_is_trained_and_draws(name: str, sounds: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name == "waveglow":
        run = request.getfixturevalue("waveglow")
    else:
        succeeds("train", *options_of(name, sounds), f"output={(run := tmp_path / 'run')}")
    model = load_model(run / "model.safetensors")
    errors = [row["validation/round_trip"] for row in curves(run) if "validation/round_trip" in row]
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


def test_a_resumed_run_keeps_what_act_norm_started_from(sounds: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [*options_of("flowavenet", sounds), "net.flows=1", "stage.optimizer.lr=0", f"output={run}"]
    succeeds("train", *options)
    before = load_model(run / "model.safetensors")
    loud = make_sounds(tmp_path / "loud", (0.5,) * 4)
    succeeds("train", *options, "trainer.max_steps=4", "resume=auto", f"data.path={loud}")
    after = load_model(run / "model.safetensors")
    assert after.info["steps"] == 4
    assert after.info["seconds"] > before.info["seconds"]
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_flow_may_teach_and_learn_by_the_path_estimator(waveglow: Path, sounds: Path, tmp_path: Path) -> None:
    student = ["stage=student", f"teacher={waveglow / 'model.safetensors'}", f"output={tmp_path / 'student'}", "net.flows=1"]
    student += [*TRAIN, f"data.path={sounds}"]
    words = "`stage.density.form` 'closed'|one autoregressive map: use 'path'"
    is_refused(tmp_path, "train", *student, "net=student_small", words=words)
    words = "`stage.density.form` 'closed'|a student of inverse autoregressive flows: use 'path'"
    is_refused(tmp_path, "train", *student, "net=waveflow_small", words=words)
    assert "kl" in succeeds("train", *student, "net=waveflow_small", "stage.density.form=path").out


def test_nats_of_the_untrained_flow_are_those_of_the_whitening(waveglow: Path, sounds: Path, tmp_path: Path) -> None:
    """Masked by samples, a rotated group still counts in full: the sum over a clip is right."""
    succeeds("train", *TRAIN, f"data.path={sounds}", "trainer.max_steps=1", "~callbacks.listen", f"output={tmp_path / 'run'}")
    assert math.isclose(nats(waveglow), nats(tmp_path / "run"), abs_tol=1e-4)
