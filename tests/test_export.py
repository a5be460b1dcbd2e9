"""Exported graphs, run by others, against the model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import is_refused, succeeds
from helpers import VOICE, random_log_mel, tiny_student, tiny_teacher, voiced_log_mel
from torch import Tensor

from wavflow import MelSpectrogram, Vocoder, save_model
from wavflow.evaluation.exported import check, open_graph, run
from wavflow.models import build
from wavflow.synthesis.export import export_sherpa, export_step, export_whole, quantize, whole_program

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NET = {"flows": 2, "layers": 2, "kernel_size": 3, "channels": 8}
SPEAKER = torch.tensor([2, 0])


@pytest.fixture(scope="module")
def student() -> Vocoder:
    """One with everything: pitch, pulses, groups, speakers; in float32, as models are."""
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float32)  # a fixture of a module comes before that of each test
    return tiny_student(std=0.25, mel=VOICE, pulses=0.8, group=2, n_speakers=3, **NET)


@pytest.fixture(scope="module")
def graphs(student: Vocoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both graphs."""
    folder = tmp_path_factory.mktemp("graphs")
    export_whole(student, folder / "whole.onnx")
    export_step(student, folder / "step.onnx")
    return folder


def clip(student: Vocoder, frames: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """A mel that falls silent, where the whitening has nothing but its floor, and noise; the second item hums at first."""
    mel = random_log_mel(frames, batch, student.mel.n_mels).float()
    mel[1:] = voiced_log_mel(student.mel, frames).float()
    mel[..., frames // 2 :] = -11.5
    return mel, student.noise(mel)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 3, 14])  # made with 41
def test_whole_graph_is_the_model(student: Vocoder, graphs: Path, frames: int) -> None:
    mel, noise = clip(student, frames)
    session = open_graph(graphs / "whole.onnx")
    audio, log_prob = session.run(None, {"mel": mel.numpy(), "noise": noise.numpy(), "speaker": SPEAKER.numpy()})
    expected = student.sample_and_log_prob(mel, noise, speaker=SPEAKER)
    torch.testing.assert_close(torch.from_numpy(audio), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(log_prob), expected[1], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "batch"), [(1, 2), (7, 2), (3, 1)])
def test_step_graph_is_the_model_frame_by_frame(student: Vocoder, graphs: Path, frames: int, batch: int) -> None:
    mel, noise = clip(student, frames, batch)
    audio = run(open_graph(graphs / "step.onnx"), mel, noise, SPEAKER[:batch])
    expected = student.sample(mel, noise, speaker=SPEAKER[:batch], passes=0, fast=False)
    torch.testing.assert_close(torch.from_numpy(audio), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["whole", "step"])
def test_layers_in_8_bits_are_near(student: Vocoder, graphs: Path, form: str) -> None:
    mel, noise = clip(student, 14, batch=1)
    quantize(graphs / f"{form}.onnx", graphs / f"{form}.int8.onnx")
    exact, rounded = (check(graphs / f"{form}{ending}", student, mel, noise, SPEAKER[:1]) for ending in (".onnx", ".int8.onnx"))
    nodes = onnx.load(graphs / f"{form}.int8.onnx").graph.node
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 2 * NET["flows"] * NET["layers"]
    assert exact.difference < 1e-5
    assert exact.distance < 0.01
    assert 5e-5 < rounded.difference < 0.1 * np.abs(run(open_graph(graphs / f"{form}.onnx"), mel, noise, SPEAKER[:1])).max()
    assert 0.0 < rounded.distance < 3.0
    assert rounded.speed > 0.0


@pytest.mark.slow
def test_graph_tells_what_its_user_has_to_know(student: Vocoder, graphs: Path) -> None:
    for form in ("whole", "step"):
        model = onnx.load(graphs / f"{form}.onnx")
        facts = {prop.key: prop.value for prop in model.metadata_props}
        assert model.opset_import[0].version >= 17
        assert b"wavflow/" not in model.SerializeToString(), "no path of the machine that made it"
        assert MelSpectrogram(**json.loads(facts["mel"])).spec == student.mel.spec
        assert build(json.loads(facts["wavflow.config"])).state_dict().keys() == student.state_dict().keys()
        assert (facts["sample_rate"], facts["hop_length"], facts["wavflow.form"]) == ("8000", "64", form)
        assert "224 samples before and 224 after" in facts["mel.made_by"]
    names = [item.name for item in model.graph.input]
    assert [item.name for item in model.graph.output] == ["audio", "log_prob", *(f"{name}.next" for name in names[2:-1])]


@pytest.mark.slow
def test_the_whole_graph_equalizes(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    student = tiny_student(std=0.25, mel=VOICE, flows=1, layers=1)
    export_whole(student, tmp_path / "whole.onnx", passes=2)
    session = open_graph(tmp_path / "whole.onnx")
    for frames, batch in ((4, 1), (14, 2)):
        mel, noise = clip(student, frames, batch)
        audio, log_prob = (torch.from_numpy(x) for x in session.run(None, {"mel": mel.numpy(), "noise": noise.numpy()}))
        torch.testing.assert_close(audio, student.sample(mel, noise, passes=2, fast=False), rtol=0, atol=1e-5)
        assert (audio - student.sample(mel, noise, passes=1, fast=False)).abs().max() > 1e-3
        torch.testing.assert_close(log_prob, student.sample_and_log_prob(mel, noise)[1], rtol=0, atol=1e-4)
    usage = {prop.key: prop.value for prop in onnx.load(tmp_path / "whole.onnx").metadata_props}["usage"]
    assert "F at least 4" in usage
    assert "after 2 passes" in usage


@pytest.mark.slow
def test_frames_stay_free_where_another_size_depends_on_them() -> None:
    torch.set_default_dtype(torch.float32)
    student = tiny_student(std=0.25, flows=1, layers=1, whitening=8)
    program = whole_program(student, passes=2).module()
    for frames in (3, 20):
        mel, noise = clip(student, frames)
        torch.testing.assert_close(program(mel, noise)[0], student.sample(mel, noise, passes=2, fast=False), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["gaussian", "logistic"])
def test_sherpa_takes_the_mel_alone_and_noise_is_drawn_inside(tmp_path: Path, base: str) -> None:
    torch.set_default_dtype(torch.float32)
    student = tiny_student(None, base=base, whitening=0, flows=1, layers=1)  # untrained: audio is noise, scaled
    export_sherpa(student, tmp_path / "vocoder.onnx")
    session = open_graph(tmp_path / "vocoder.onnx")
    assert [item.name for item in session.get_inputs()] == ["mel"]
    assert session.get_modelmeta().custom_metadata_map.items() >= {"model_type": "hifigan", "sample_rate": "8000"}.items()
    mel = random_log_mel(1000).float()
    first, second = (torch.from_numpy(session.run(None, {"mel": mel.numpy()})[0]).flatten() for _ in range(2))
    expected = student.sample(mel, passes=0, fast=False).flatten()
    assert len(first) == len(expected) == 16000
    assert (first != second).double().mean() > 0.99
    levels = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999])
    torch.testing.assert_close(first.quantile(levels), expected.quantile(levels), rtol=0.15, atol=0.03 * float(expected.std()))


@torch.no_grad()
def test_torch_export_is_the_model_at_any_length() -> None:
    student = tiny_student(std=0.25, whitening=0)
    program = whole_program(student).module()
    for frames in (2, 9):
        mel = random_log_mel(frames, batch=3)
        noise = student.noise(mel)
        torch.testing.assert_close(program(mel, noise), student.sample_and_log_prob(mel, noise), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_command_writes_graphs_and_says_what_they_are_worth(tmp_path: Path) -> None:
    save_model(tiny_student(std=0.2, layers=1, flows=1, whitening=0), tmp_path / "student.safetensors")
    outcome = succeeds(
        "export", f"model={tmp_path / 'student.safetensors'}", f"output={tmp_path / 's.onnx'}", "form=both", "int8=true"
    )
    lines = outcome.out.strip().splitlines()
    names = ["s.onnx", "s.int8.onnx", "s.step.onnx", "s.step.int8.onnx"]
    assert [Path(line.split(": ")[0]).name for line in lines] == names
    assert all("x real time on one thread" in line for line in lines)
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
