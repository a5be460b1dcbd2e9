"""Models that come with the package: found by name, in half precision, and what rounding costs; the scripts around them."""

import json
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import call, make_sounds, outcome_of, succeeds
from helpers import MEL, random_log_mel, refused, tiny_student, tiny_teacher
from safetensors import safe_open

import wavflow
from wavflow import models
from wavflow.evaluation.systems import Clip
from wavflow.models import text_to_mel
from wavflow.text_to_mel import TextToMel
from wavflow.vocoder import Vocoder

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import gpu_session
from release import release, rounding
from release_voice import of_speakers


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package's, with a student and a teacher; the working folder is another, and empty."""
    folder = tmp_path / "released"
    for name, model in (("lj-student", tiny_student()), ("lj-teacher", tiny_teacher())):
        wavflow.save_model(model.float(), folder / f"{name}.safetensors", {"steps": 3}, torch.float16)
    monkeypatch.setattr(models, "RELEASED", folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_a_name_is_a_model_and_another_name_tells_those_there_are(released: Path) -> None:
    assert wavflow.load_model("lj-student").draws_in_parallel
    assert not wavflow.load_model(Path("lj-teacher")).draws_in_parallel
    for wrong in ("lj-pupil", "lj-student.safetensors", "no/lj-student"):
        with pytest.raises(FileNotFoundError, match=r"there is no model file .*or take one of lj-student, lj-teacher"):
            wavflow.load_model(wrong)
    wavflow.save_model(tiny_teacher().float(), "lj-student")  # a file of your own goes first
    assert not wavflow.load_model("lj-student").draws_in_parallel


def test_what_comes_with_the_package_is_whole() -> None:
    for name, path in models.released_models().items():
        model = wavflow.load_model(name, kind=TextToMel if name.endswith("-text") else Vocoder)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert path.stat().st_size <= 16_000_000
        assert {"steps", "data", "licence", "commit", "dtype"} <= model.info.keys()
        assert "/" not in json.dumps(model.info), "a path tells of a machine"
        assert f"`{name}`" in (models.RELEASED / "README.md").read_text(), "the card must tell of it"


@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_is_half_the_size_and_loads_as_the_weights_rounded(
    tmp_path: Path, dtype: torch.dtype, step: float
) -> None:
    torch.set_default_dtype(torch.float32)
    model = tiny_student(layers=6, channels=32)
    for name, kind in (("half", dtype), ("whole", None)):
        wavflow.save_model(model, tmp_path / name, dtype=kind)
    loaded = wavflow.load_model(tmp_path / "half").state_dict()

    for name, weight in model.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert (loaded[name] != weight).any() or weight.numel() < 10
        torch.testing.assert_close(loaded[name], weight, rtol=step, atol=1e-7)
    sizes = [(tmp_path / name).stat().st_size for name in ("half", "whole")]
    assert 0.48 < sizes[0] / sizes[1] < 0.56  # the configuration is as long as ever


def test_what_half_precision_can_not_hold_is_refused(tmp_path: Path) -> None:
    model = tiny_student()
    with pytest.raises(ValueError, match=r"`dtype` must be torch.float16, torch.bfloat16 or None, got torch.int8"):
        wavflow.save_model(model, tmp_path / "model", dtype=torch.int8)
    with torch.no_grad():
        model.upsampler.mix.weight[0] = 1e5
    refused(lambda: wavflow.save_model(model, tmp_path / "model", dtype=torch.float16), r"can't hold upsampler\.mix\.weight")
    assert not list(tmp_path.iterdir())
    wavflow.save_model(model, tmp_path / "model", dtype=torch.bfloat16)


def test_commands_take_names_and_fall_back_to_them(released: Path) -> None:
    sounds = make_sounds(released.parent / "sounds")
    outcome = succeeds("synthesize", f"input={sounds / '0.wav'}", "output=a.wav", "device=cpu")
    assert "model=lj-student" in outcome.err
    assert "model=lj-" not in succeeds("synthesize", "model=lj-student", f"input={sounds / '0.wav'}", "output=b.wav").err
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    assert "model=lj-teacher" in succeeds("score", f"input={sounds / '0.wav'}", "pictures=0").err

    run = Path("runs/student/mine/model.safetensors")
    wavflow.save_model(tiny_student().float(), run)
    assert "lj-student" not in succeeds("synthesize", f"input={sounds / '0.wav'}", "output=c.wav").err
    assert Path("c.wav").read_bytes() != Path("a.wav").read_bytes()


def test_training_and_comparing_do_not_fall_back(released: Path) -> None:
    for command, option in (("train", "stage=student"), ("evaluate", "clips=1")):
        outcome = call(command, option)
        assert outcome.status == 1
        assert "no teacher was named" in outcome.err


def test_a_release_is_rounded_and_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    teacher, student = tiny_teacher(0.2), tiny_student(0.2)
    clips = [Clip(f"{i}", 0.05 * torch.randn(1, 160), random_log_mel(10)) for i in range(3)]
    student.info = {"steps": 5, "stage": "DistillationTask", "machine": "/home/me", "seconds": 2.5}
    for model, other in ((teacher, tiny_teacher(0.3)), (student, tiny_student(0.3))):
        path = release(model, tmp_path / "out" / "mine.safetensors", {"licence": "MIT"})
        assert path.stat().st_mode & 0o777 == 0o644
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118 (not a dict)
        exact, near, far = (rounding(model, m, clips) for m in (model, wavflow.load_model(path), other))
        assert exact.mean == 0 < 20 * near.mean < far.mean
    assert wavflow.load_model(path).info == {
        "steps": 5, "stage": "DistillationTask", "seconds": 2.5, "licence": "MIT", "dtype": "float16"
    }  # fmt: skip


def test_a_voice_is_released_of_the_speakers_that_are_named() -> None:
    model = text_to_mel(
        MEL, [" ", ".", *"ab"], "characters", 8, 1, 1, blocks=1, block_layers=1, block_channels=8, n_speakers=3
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.info = {"speakers": ["x", "y", "z"], "steps": 3}
    expected = [model.sample("abba", 0.0, speaker=torch.tensor([i])) for i in range(3)]
    two = of_speakers(model, ["z", "x"])
    assert two.info == {"speakers": ["z", "x"], "steps": 3}
    for i, was in enumerate((2, 0)):
        torch.testing.assert_close(two.sample("abba", 0.0, speaker=torch.tensor([i])), expected[was])
    torch.testing.assert_close(of_speakers(model, ["y"]).sample("abba", 0.0), expected[1])


class Here:
    """A process that is none: the command runs here, since each process would import for seconds."""

    def __init__(self, command: list[str], **_: object) -> None:
        self.status = call(command[2].removeprefix("wavflow."), *command[3:]).status

    def wait(self, _: float) -> int:
        return self.status


@pytest.mark.slow
def test_a_session_for_a_gpu_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = make_sounds(tmp_path / "sounds", (0.6, 0.5, 0.7, 0.4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_session, "subprocess", SimpleNamespace(Popen=Here))
    options = ["--data", sounds, "--output", "out", "--minutes", "20", "--steps", "synthesis,training,train"]
    done = outcome_of(gpu_session.main, "gpu_session", "--tiny", *options)

    assert done.status == 0, done.err
    assert done.out.count("status 0") == 4, done.out + done.err
    for kind in ("synthesis", "training"):
        assert json.loads((tmp_path / "out" / kind / "benchmark.json").read_text())[kind]
    assert wavflow.load_model(tmp_path / "out" / "student.safetensors").info["steps"] == 2


def test_a_step_of_a_session_ends_with_its_status_or_with_the_time() -> None:
    assert gpu_session.call(["-c", "raise SystemExit(3)"], time.monotonic() + 60.0) == 3
    assert gpu_session.call(["-c", "import time; time.sleep(60)"], time.monotonic()) == -signal.SIGTERM
