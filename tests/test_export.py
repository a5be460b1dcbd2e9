"""Exported graphs, run by others, against the model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import is_refused, succeeds
from helpers import MEL, VOICE, random_log_mel, tiny_student, tiny_teacher, voiced_log_mel
from torch import Tensor

from wavflow import MelSpectrogram, Vocoder, save_model
from wavflow.evaluation.exported import check, open_graph, run
from wavflow.models import build
from wavflow.synthesis.export import export_sherpa, export_step, export_whole, quantize, whole_program

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NET = {"flows": 2, "layers": 2, "kernel_size": 3, "channels": 8, "whitening": 3}
SPEAKER = torch.tensor([2, 0])
PASSES = {"whole": 2, "step": 0}  # of the mel equalizer


@pytest.fixture(scope="module")
def student() -> Vocoder:
    """One with everything: pitch, pulses, groups, speakers; in float32, as models are."""
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float32)  # a fixture of a module comes before that of each test
    return tiny_student(std=0.25, mel=VOICE, pulses=0.8, group=2, n_speakers=3, **NET)


@pytest.fixture(scope="module", params=["whole", "step"])
def graph(request: pytest.FixtureRequest, student: Vocoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / f"{request.param}.onnx"
    if request.param == "whole":
        export_whole(student, path, PASSES["whole"])
    else:
        export_step(student, path)
    return path


def clip(student: Vocoder, frames: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """A mel that falls silent, where the whitening has nothing but its floor, and noise; the second item hums at first."""
    mel = random_log_mel(frames, batch, student.mel.n_mels).float()
    mel[1:] = voiced_log_mel(student.mel, frames).float()
    mel[..., frames // 2 :] = -11.5
    return mel, student.noise(mel)


@pytest.mark.slow
def test_graph_is_the_model(student: Vocoder, graph: Path) -> None:
    """The whole one was made with 44 frames; the other draws one after the other."""
    session, passes = open_graph(graph), PASSES[graph.stem]
    for frames, batch in ((4, 1), (7, 2), (14, 2), *([] if passes else [(1, 2)])):
        mel, noise = clip(student, frames, batch)
        speaker = SPEAKER[:batch]
        audio = student.sample(mel, noise, speaker=speaker, passes=passes, fast=False)
        torch.testing.assert_close(torch.from_numpy(run(session, mel, noise, speaker)), audio, rtol=0, atol=1e-5)
        if passes:
            assert (audio - student.sample(mel, noise, speaker=speaker, passes=1, fast=False)).abs().max() > 1e-3
            inputs = {"mel": mel.numpy(), "noise": noise.numpy(), "speaker": speaker.numpy()}
            log_prob = student.sample_and_log_prob(mel, noise, speaker=speaker)[1]
            torch.testing.assert_close(torch.from_numpy(session.run(["log_prob"], inputs)[0]), log_prob, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_layers_in_8_bits_are_near(student: Vocoder, graph: Path) -> None:
    mel, noise = clip(student, 14, batch=1)
    small = graph.with_suffix(".int8.onnx")
    quantize(graph, small)
    exact, rounded = (check(path, student, mel, noise, SPEAKER[:1], PASSES[graph.stem]) for path in (graph, small))
    nodes = onnx.load(small).graph.node
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 2 * NET["flows"] * NET["layers"]
    assert exact.difference < 1e-5
    assert exact.distance < 0.01
    assert 5e-5 < rounded.difference < 0.1 * np.abs(run(open_graph(graph), mel, noise, SPEAKER[:1])).max()
    assert 0.0 < rounded.distance < 3.0
    assert rounded.speed > 0.0


@pytest.mark.slow
def test_graph_tells_what_its_user_has_to_know(student: Vocoder, graph: Path) -> None:
    model = onnx.load(graph)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert model.opset_import[0].version >= 17
    assert all(node.op_type != "Cos" for node in model.graph.node), "onnxruntime 1.28 has none in float64"
    assert b"wavflow/" not in model.SerializeToString(), "no path of the machine that made it"
    assert MelSpectrogram(**json.loads(facts["mel"])).spec == student.mel.spec
    assert build(json.loads(facts["wavflow.config"])).state_dict().keys() == student.state_dict().keys()
    assert (facts["sample_rate"], facts["hop_length"], facts["wavflow.form"]) == ("8000", "64", graph.stem)
    assert "224 samples before and 224 after" in facts["mel.made_by"]
    states = [item.name for item in model.graph.input][2:-1]
    assert [item.name for item in model.graph.output] == ["audio", "log_prob", *(f"{name}.next" for name in states)]
    assert bool(states) == (graph.stem == "step")
    assert ", speaker (B,), int64 below 3, in the order of wavflow.info -> audio" in facts["usage"]
    assert ("F at least 4" in facts["usage"]) == ("after 2 passes" in facts["usage"]) == (graph.stem == "whole")


@pytest.mark.slow
@pytest.mark.parametrize("base", ["gaussian", "logistic"])
def test_sherpa_takes_the_mel_alone_and_noise_is_drawn_inside(tmp_path: Path, base: str) -> None:
    torch.set_default_dtype(torch.float32)
    student = tiny_student(None, base=base, whitening=0, flows=1, layers=1)  # untrained: audio is noise, scaled
    export_sherpa(student, tmp_path / "vocoder.onnx")
    session = open_graph(tmp_path / "vocoder.onnx")
    assert [item.name for item in session.get_inputs()] == ["mel"]
    assert session.get_modelmeta().custom_metadata_map.items() >= {"model_type": "hifigan", "sample_rate": "8000"}.items()
    mel = random_log_mel(6000).float()  # of 1,000 frames two medians differ by more than is allowed in 3 % of all runs
    first, second = (torch.from_numpy(session.run(None, {"mel": mel.numpy()})[0]).flatten() for _ in range(2))
    expected = student.sample(mel, passes=0, fast=False).flatten()
    assert len(first) == len(expected) == 96000
    assert (first != second).double().mean() > 0.99
    levels = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999])
    torch.testing.assert_close(first.quantile(levels), expected.quantile(levels), rtol=0.15, atol=0.03 * float(expected.std()))


@torch.no_grad()
def test_torch_export_is_the_model_at_any_length() -> None:
    student = tiny_student(std=0.25, whitening=0)
    program = whole_program(student).module()
    for frames in (1, 9):
        mel = random_log_mel(frames, batch=3)
        noise = student.noise(mel)
        torch.testing.assert_close(program(mel, noise), student.sample_and_log_prob(mel, noise), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_command_writes_graphs_and_says_what_they_are_worth(tmp_path: Path) -> None:
    """Of a model without a mel; with one, see test_browser_page.py."""
    save_model(tiny_student(0.2, layers=1, flows=1, whitening=1, mel=MEL | {"n_mels": 0}), tmp_path / "student.safetensors")
    options = [f"model={tmp_path / 'student.safetensors'}", f"output={tmp_path / 's.onnx'}", "form=both", "int8=true"]
    lines = succeeds("export", *options).out.strip().splitlines()
    names = ["s.onnx", "s.int8.onnx", "s.step.onnx", "s.step.int8.onnx"]
    assert [Path(line.split(": ")[0]).name for line in lines] == names
    assert all("x real time on one thread" in line for line in lines)
    differences = [float(line.split("differs from the model by ")[1].split()[0]) for line in lines]
    assert max(differences[::2]) < 1e-5 < min(differences[1::2])
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == sorted(names)


def test_command_refuses_what_it_cannot_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tiny_teacher(), tmp_path / "teacher.safetensors")
    save_model(tiny_student(), tmp_path / "student.safetensors")
    student, output = f"model={tmp_path / 'student.safetensors'}", f"output={tmp_path / 'x.onnx'}"
    teacher = f"model={tmp_path / 'teacher.safetensors'}"
    is_refused(tmp_path, "export", student, f"output={tmp_path / 'x.pt'}", words="`output`|.onnx")
    is_refused(tmp_path, "export", student, output, "form=half", words="`form`|whole, step, both")
    is_refused(tmp_path, "export", teacher, output, words="`model` must be a student")
    is_refused(tmp_path, "export", student, output, "contract=sherpa", "form=step", words="`form` must be whole")
    save_model(tiny_student(n_speakers=2), tmp_path / "student.safetensors")
    is_refused(tmp_path, "export", student, output, "contract=sherpa", words="`contract`|without speakers")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    is_refused(tmp_path, "export", student, output, words="onnxscript|pip install 'wavflow[export]'")
