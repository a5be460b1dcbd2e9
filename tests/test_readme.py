"""README.md and the pages of docs/: commands run, options exist, the Python works, figures are those of the released models."""

import glob
import importlib.metadata
import math
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import TRAIN, call, make_sounds, succeeds, tone
from helpers import tiny_student, tiny_teacher
from hydra import compose, initialize_config_module
from test_listening import mushra, save

import wavflow
from wavflow.data import ClipDataset
from wavflow.evaluation.systems import Clip, likelihoods
from wavflow.likelihood.codec import encode
from wavflow.losses import DensityDistillation
from wavflow.models import build

ROOT = Path(__file__).resolve().parents[1]
RECORDING = ROOT / "wavflow" / "assets" / "models" / "LJ027-0006.flac"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("train", "evaluate", "synthesize", "likelihoods", "flows", "results")  # what one makes, the next one takes
TEXT = "\n".join([README, *((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES)])
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
PYTHON = [body for language, body in FENCE.findall(TEXT) if language == "python"]
SPANS = list(dict.fromkeys(re.findall(r"`([^`\n]+)`", FENCE.sub("", TEXT))))
LINES = [line for language, body in FENCE.findall(TEXT) if not language for line in body.splitlines()]
PROGRAMS = ("python", "make", "pip", "git", "cd", "source", "tensorboard")
COMMANDS = [shlex.split(text, comments=True) for text in LINES + [span for span in SPANS if span.split(" ")[0] in PROGRAMS]]
# Options of `train`, or of the command named before them: `net=student net.group=4`, `synthesize speaker=p225`.
OPTIONS = [span for span in SPANS if re.fullmatch(r"(\w+ )?[\w.]+=\S+( [\w.]+=\S+)*", span)]

# What makes each command a matter of seconds.
QUICK = ["voicing=false", "listen=false", "jobs=1", "data.test=0.5", "clips=1"]
SHORT = {
    "train stage=teacher": [*TRAIN, "net.whitening=8", "~callbacks.listen"],
    "train stage=student": [*TRAIN, "net.flows=2", "~callbacks.listen"],
    "evaluate data=folder": QUICK,
    "evaluate model=a.safetensors,b.safetensors": QUICK,
    "evaluate reference=recordings/": [*QUICK[:3], "clips=1"],
    "serve": ["--help"],  # it would serve until it is stopped
    "prepare wavs/": ["--workers", "1"],
    "export output=student.onnx": ["form=step", "model=a.safetensors"],  # both are in test_export.py
    "export output=voice": ["--help"],  # needs npm; see test_browser_page.py
    "density data=shape": ["data.rows=200", "fit.epochs=1", "flow.depth=1"],
    "benchmark": ["model=[a.safetensors]", "part=synthesis", "lengths=[]", "budget=0.01", "seconds=0.1"],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with all files that the README's commands read."""
    monkeypatch.chdir(tmp_path)
    for name in ("wavs", "recordings", "vocoder-a", "vocoder-b"):
        make_sounds(tmp_path / name, (0.28,) * 4)
    for name in ("recording.wav", "a.wav"):
        soundfile.write(name, tone(0.3), 8000)
    for name in "ab":
        wavflow.save_model(tiny_student(0.02, flows=1, layers=1, whitening=1).float(), f"{name}.safetensors")
    mel = tiny_teacher().float().mel(torch.from_numpy(tone(0.3)).float()[None])
    np.save("mel.npy", mel.numpy() / math.log(10))
    Path("results").mkdir()
    save(Path("results/ann.csv"), mushra([{"recording": 100, "student": 60}]))
    return tmp_path


@pytest.mark.slow
def test_every_command_runs(place: Path) -> None:
    """In their order: what one makes, the next one takes."""
    ran = set()
    for program, *words in (command for command in COMMANDS if command):
        if program == "python":
            assert words[0] == "-m"
            name, *options = words[1].removeprefix("wavflow."), *words[2:]
            short = SHORT.get(" ".join([name, *options[:1]]), [])
            given = {option.split("=")[0] for option in short}
            options = [option for option in options if option.split("=")[0] not in given] + short
            options = [path for option in options for path in (sorted(glob.glob(option)) if "*" in option else [option])]
            assert call(name, *options).status == 0 if "--help" in options else succeeds(name, *options)
            ran.add(name)
        elif program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        elif program == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert words[0] == "install"
            assert set(re.findall(r"\w+", words[1])) <= extras.keys()
        elif program == "tensorboard":
            assert importlib.metadata.entry_points(group="console_scripts", name=program)
            assert any(Path(words[1]).glob("*/*/logs/events.*")), "there is something to show"
        else:
            assert [program, *words] in ([*COMMANDS[0]], ["cd", "wavflow"], ["source", ".venv/bin/activate"])
    assert ran >= {
        "train",
        "evaluate",
        "synthesize",
        "listen",
        "prepare",
        "export",
        "score",
        "compress",
        "density",
        "benchmark",
    }


@pytest.mark.parametrize("span", OPTIONS)
def test_every_option_is_one(span: str) -> None:
    command, _, options = span.partition(" ") if "=" not in span.split(" ")[0] else ("train", "", span)
    with initialize_config_module("wavflow.conf", version_base="1.3"):
        assert compose(command, [*(["output=out"] if command == "train" else []), *options.split(" ")])


def test_links_lead_somewhere() -> None:
    assert [link for link in re.findall(r"\]\(([^)]+)\)", README) if not (ROOT / link).exists()] == []
    assert "neural vocoder" in README.splitlines()[2]
    assert "mel -> waveform" in README.splitlines()[2]


@pytest.fixture
def float32() -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def test_the_python_runs_and_its_mel_is_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float32: None) -> None:
    monkeypatch.chdir(tmp_path)
    recording = wavflow.read_audio(RECORDING)[0][:20000]
    wavflow.write_audio("recording.wav", recording, 22050)
    names: dict = {}
    for block in PYTHON:
        exec(block, names)
    assert len(PYTHON) == 3
    copy, rate = wavflow.read_audio("copy.wav")
    assert (len(copy), rate) == (20000 // 256 * 256, 22050)
    assert torch.equal(names["student"].mel(recording[None]), names["mel"])
    # Near the floor float32 rounds the power to a part in a thousand.
    np.testing.assert_allclose(np.load("mel.npy"), names["mel"][0].numpy(), rtol=0, atol=2e-3)


def test_the_sound_to_play_is_what_the_model_draws(tmp_path: Path) -> None:
    succeeds("synthesize", "model=lj-student", f"input={RECORDING}", f"output={tmp_path / 'copy.flac'}")
    (drawn, _), (shown, rate) = (
        soundfile.read(path) for path in (tmp_path / "copy.flac", ROOT / "docs/sounds/lj-student.flac")
    )
    assert rate == 22050
    remedy = f"draw it anew: synthesize model=lj-student input={RECORDING} output=docs/sounds/lj-student.flac"
    np.testing.assert_allclose(shown, drawn, rtol=0, atol=1e-3, err_msg=remedy)


@pytest.mark.slow
def test_the_text_to_play_is_what_the_models_speak(tmp_path: Path) -> None:
    text = "A flow turns noise into the mel of a sentence, and another one turns that into sound."
    succeeds("speak", text, f"output={tmp_path / 'speech.flac'}", "model=kathleen-text", "device=cpu")
    (spoken, _), (shown, rate) = (
        soundfile.read(path) for path in (tmp_path / "speech.flac", ROOT / "docs/sounds/kathleen-text.flac")
    )
    assert rate == 22050
    np.testing.assert_allclose(shown, spoken, rtol=0, atol=1e-3, err_msg=f"speak it anew: {text}")


# Figures --------------------------------------------------------------------------------------------------------------

EIGHT = (
    "LJ027-0006",
    "LJunk-BogiHsu-2",
    "LJunk-janvainer-9",
    "LJ035-0082",
    "LJ012-0067",
    "LJ022-0173",
    "LJ050-0218",
    "LJ016-0443",
)
FOLDER = Path(os.environ.get("WAVFLOW_LJ", "LJ"))  # where LJSpeech's clips lie, for the figures of all eight
needs_clips = pytest.mark.skipif(not (FOLDER / "LJ035-0082.flac").is_file(), reason="needs WAVFLOW_LJ=<LJSpeech's flac files>")


def clips(*paths: Path) -> list[Clip]:
    items = ClipDataset(list(paths), wavflow.load_model("lj-teacher").mel, 4.0)
    return [Clip(item["name"], item["audio"][None], item["mel"][None]) for item in items]


def kl(model: wavflow.Vocoder, teacher: wavflow.Vocoder, clips: list[Clip]) -> float:
    """Mean KL to the teacher in nats per sample, as `evaluate` has it."""
    values = []
    for i, clip in enumerate(clips):
        draw = model.draw(clip.mel, model.noise(clip.mel, torch.Generator().manual_seed(i)))
        values.append(
            float(DensityDistillation("path")(draw, model.flow, teacher.flow, teacher.conditioning(clip.mel))[0].mean())
        )
    return sum(values) / len(values)


def without_pulses(model: wavflow.Vocoder) -> wavflow.Vocoder:
    return build(model.config | {"pulses": 0.0}).eval()


@pytest.mark.slow
@torch.no_grad()
def test_the_student_has_a_lower_kl_than_an_untrained_one_without_pulses(float32: None) -> None:
    """On the bundled clip, a second of it."""
    teacher, student = (wavflow.load_model(name) for name in ("lj-teacher", "lj-student"))
    (clip,) = clips(RECORDING)
    clip = clip._replace(audio=clip.audio[:, :22016], mel=clip.mel[..., :86])
    row = likelihoods([clip], {"teacher": teacher})[0][-1]
    assert row["bits/sample"].mean == pytest.approx(8.392, abs=0.005)
    assert kl(student, teacher, [clip]) < kl(without_pulses(student), teacher, [clip])


@needs_clips
@pytest.mark.slow
@torch.no_grad()
def test_figures_of_the_eight_clips(float32: None) -> None:
    def stated(pattern: str) -> float:
        return float(re.search(pattern, TEXT)[1])

    teacher, student = (wavflow.load_model(name) for name in ("lj-teacher", "lj-student"))
    paths = [FOLDER / f"{name}.flac" for name in EIGHT]
    eight = clips(*paths)
    bits = {row["likelihood of"]: row["bits/sample"] for row in likelihoods(eight, {"teacher": teacher})[0]}
    assert bits["FLAC"] == pytest.approx(stated(r"FLAC takes ([\d.]+) bits on these"), abs=0.006)
    assert bits["teacher"].mean == pytest.approx(stated(r"\n\| teacher,.*\| ([\d.]+) \| \|"), abs=0.006)
    assert bits["whitening alone"].mean == pytest.approx(
        stated(r"\n\| \.\.\. and its pitch.*\| ([\d.]+) \| [\d.]+ \|"), abs=0.006
    )
    assert kl(student, teacher, eight) == pytest.approx(stated(r"\n\| student,.*\| ([\d.]+) \|\n"), abs=0.002)
    fast = stated(r"\n\| .*`lj-student-fast`, .43 M parameters.*\| ([\d.]+) \|\n")
    assert kl(wavflow.load_model("lj-student-fast"), teacher, eight) == pytest.approx(fast, abs=0.002)
    plain = stated(r"\n\| \.\.\. and its pitch.*\| ([\d.]+) \|\n")
    assert kl(without_pulses(student), teacher, eight) == pytest.approx(plain, abs=0.002)


@needs_clips
@pytest.mark.slow
def test_figure_of_lossless_coding(float32: None) -> None:
    teacher, coded, samples = wavflow.load_model("lj-teacher"), 0, 0
    for name in EIGHT:
        pcm = soundfile.read(FOLDER / f"{name}.flac", dtype="int16")[0][: 4 * 22050 // 256 * 256]
        coded += 8 * len(encode(pcm[None], 22050, teacher, 1.0, 2).data)
        samples += len(pcm)
    assert coded / samples == pytest.approx(float(re.search(r"take ([\d.]+) bits per sample, where", TEXT)[1]), abs=0.01)
