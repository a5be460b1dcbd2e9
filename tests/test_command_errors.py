"""What a user can get wrong: one line that says what to do, a status that is not 0, and nothing half-written."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from commands import TRAIN, call, contents, is_refused, make_sounds, succeeds, tone
from helpers import MEL, random_log_mel, refused, tiny_flow, tiny_mel, tiny_student, tiny_teacher

import wavflow
from wavflow.mel_files import load_mel

# What `place` holds, as it is typed there.
MODELS = ["teacher=teacher.safetensors", "student=student.safetensors"]
DATA = ["data=folder", "data.path=sounds"]
DISTIL = ["stage=student", "net.flows=1", *TRAIN, "data.path=sounds"]


def refuses(command: str, *options: str, words: str) -> None:
    is_refused(Path.cwd(), command, *options, words=words)


def refuses_to_synthesize(*options: str, words: str) -> None:
    refuses("synthesize", "model=student.safetensors", "input=sounds/0.wav", "output=out.wav", *options, words=words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and the sounds, made once."""
    folder = tmp_path_factory.mktemp("made")
    wavflow.save_model(tiny_teacher(), folder / "teacher.safetensors")
    wavflow.save_model(tiny_student(), folder / "student.safetensors")
    make_sounds(folder / "sounds", (0.2, 0.15, 0.1))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with sounds, a teacher and a student, so that no model of another place can be found."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


# --- teacher and student -----------------------------------------------------------------------------------------------


def test_a_student_without_a_teacher_names_the_command_that_makes_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavflow.models.RELEASED", place)
    words = "`teacher`|python -m wavflow.train stage=teacher|teacher=<model.safetensors>"
    refuses("train", *DISTIL, words=words)
    refuses("evaluate", words=words)
    words = "`model`|python -m wavflow.train stage=student|model=<model.safetensors>"
    refuses("synthesize", "input=sounds", words=words)


def test_a_student_is_no_teacher(place: Path) -> None:
    words = "`teacher`|student.safetensors is a student|stage=teacher"
    refuses("train", *DISTIL, "teacher=student.safetensors", words=words)
    swapped = ["teacher=student.safetensors", "student=teacher.safetensors"]
    refuses("evaluate", *swapped, words="`teacher`|is no teacher|stage=teacher")
    refuses("evaluate", MODELS[0], swapped[1], words="`student`|is no student|stage=student")


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("synthesize", "input=gs://bucket/mels output=out", "`input` must be a file or folder here|gs://bucket/mels: mount it"),
        ("synthesize", "input=sounds,https://host/a.wav output=out", "`input`|https://host/a.wav: mount it, or copy it"),
        ("synthesize", "input=sounds output=az://box/out", "`output` must be a file or folder here|az://box/out: mount it"),
        ("score", "input=sounds model=https://host/m.safetensors", "`model`|https://host/m.safetensors: mount it, or copy it"),
        (
            "train",
            "data=folder data.path=s3://bucket/a",
            "`data.path`|s3://bucket/a: say data=shards if it holds shards, or mount",
        ),
        (
            "train",
            "data=shards data.path=az://box/a",
            "`path` must be a folder, s3://… or gs://…, got az://box/a|copy the shards",
        ),
    ],
)
def test_addresses_are_refused_where_a_path_is_needed(place: Path, command: str, options: str, words: str) -> None:
    refuses(command, *options.split(), words=words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"sample_rate": 16000}, "sample_rate 16000 instead of 8000"), ({"n_mels": 7}, "n_mels 7 instead of 8")],
)
def test_a_teacher_of_another_mel_is_refused(place: Path, changes: dict[str, int], words: str) -> None:
    wavflow.save_model(tiny_teacher(mel=MEL | changes), place / "teacher.safetensors")
    refuses("train", *DISTIL, MODELS[0], words=f"`teacher`|{words}|audio=...")
    refuses("evaluate", *MODELS, words="`teacher` was trained on another mel")


def test_a_teacher_of_other_settings_is_refused(place: Path) -> None:
    wavflow.save_model(tiny_teacher(whitening=4), place / "teacher.safetensors")
    refuses("evaluate", *MODELS, words="`teacher` whitens by|they must share the map")


# --- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "option", "words"),
    [
        ("train", "net.layres=3", "`net.layres`|no such key|did you mean net.layers?"),
        ("train", "stage.optimizer.lrr=3", "did you mean stage.optimizer.lr?"),
        ("train", "zzz=3", "`zzz`|no such key|choose one of output, teacher"),
        ("train", "stage=studnet", "`stage` has no option 'studnet'|student, teacher"),
        ("train", "audio=23k", "`audio` has no option '23k'|16k, 22k, 24k"),
        ("train", "stage", "`stage` can't be read as an option|key=value"),
        ("train", "net.layers=2,3", "`net.layers` takes one value, got 2,3|add -m"),
        ("train", "größe=3", "`größe=3` can't be read as an option|key=value"),
        ("train", "data.lengths=[1,2", "`data.lengths=[1,2` can't be read: a list is written [a,b]"),
        ("train", "--seed=3", "`--seed=3`: there is no such flag: write seed=3"),
        ("train", "-s", "`-s`: there is no such flag: see --help"),
        ("train", "output=", "`output` is empty"),
        ("train", "batch_size=4", "`batch_size`: there is no such key: did you mean data.batch_size?"),
        ("train", "data.batch_size=four", "`data.batch_size` must be a number, got 'four'"),
        ("train", "data.batch_size=2.5", "`data.batch_size` must be a whole number"),
        ("train", "net.layers=many", "`net.layers` must be a number, got 'many'"),
        ("train", "data.dequantize=perhaps", "`data.dequantize` must be true or false, got 'perhaps'"),
        ("train", "data.max_clip_seconds=-3", "`data.max_clip_seconds` must not be negative, got -3"),
        ("train", "data=folder", "`data.path` is needed|data.path=<value>"),
        ("train", "net.density=gauss", "`net.density` must be one of gaussian, logistic"),
        ("train", "net.layers=0", "`net.layers` must be at least 1, got 0"),
        ("train", "+net.lairs=2", "`config` does not fit teacher|'lairs'"),
        ("train", "net.n_speakers=4", "`net.n_speakers`|leave it at 0"),
        ("train", "audio.sample_rate=3", "`audio.f_min` and `audio.f_max`"),
        ("train", "data.segment_length=1000", "`data.segment_length`|hop_length 256|take 768"),
        ("train", "data.batch_size=0", "`data.batch_size` must be a whole number of at least 1, got 0"),
        ("train", "trainer.accelerator=abacus", "invalid accelerator|abacus|cpu"),
        ("train", "trainer.max_steps=many", "`trainer.max_steps` must be a number, got 'many'"),
        ("train", "seed=now", "`seed` must be a number, got 'now'"),
        ("evaluate", "clipps=3", "`clipps`|did you mean clips?"),
        ("synthesize", "inptu=a.wav", "`inptu`|did you mean input?"),
        ("synthesize", "seed=1", "`input` is needed|input=<value>"),
    ],
)
def test_wrong_options_are_named(place: Path, command: str, option: str, words: str) -> None:
    refuses(command, option, words=words)


@pytest.mark.parametrize(
    ("form", "words"),
    [("clsed", "`stage.density.form` must be one of closed, rao_blackwell, path"), ("closed", "use 'rao_blackwell'")],
)
def test_a_form_that_is_not_there_or_does_not_fit_is_named_before_training(place: Path, form: str, words: str) -> None:
    refuses("train", *DISTIL, MODELS[0], "net.base=logistic", f"stage.density.form={form}", words=words)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("device=abacus", "`device` 'abacus' can't be used here|try cpu"),
        ("device=meta", "`device` 'meta' can't be used here|try cpu"),
        ("temperature=warm", "`temperature` must be a number, got 'warm'"),
        ("temperature=-1", "`temperature` must not be negative, got -1"),
        ("speaker=1", "`speaker`|knows no speakers"),
        ("seed=0.5", "`seed` must be a whole number of at least 0, got 0.5"),
    ],
)
def test_wrong_values_are_named(place: Path, option: str, words: str) -> None:
    refuses_to_synthesize(option, words=words)


def test_speakers_that_a_model_does_not_know_are_refused(place: Path) -> None:
    wavflow.save_model(tiny_student(n_speakers=3), place / "student.safetensors")
    refuses_to_synthesize("speaker=3", words="`speaker`|below 3|got 3")
    refuses_to_synthesize(words="`speaker`|below 3|got None")
    given = ["model=student.safetensors", "input=sounds/0.wav", "output=out.wav"]
    succeeds("synthesize", *given, "speaker=2")


def test_evaluation_needs_clips_and_a_device(place: Path) -> None:
    given = [*MODELS, *DATA]
    refuses("evaluate", *given, "clips=0", words="`clips` must be a whole number of at least 1, got 0")
    refuses("evaluate", *given, "seconds=0", words="`seconds` must be a number above 0")
    refuses("evaluate", *given, "device=abacus", words="`device` 'abacus'")
    refuses("evaluate", *given, "jobs=0", words="`jobs` must be a whole number of at least 1, got 0")


def test_models_that_do_not_belong_in_one_table_are_refused(place: Path) -> None:
    wavflow.save_model(tiny_flow("waveflow", mel=MEL | {"n_mels": 9}), place / "other.safetensors")
    words = "`model`|other.safetensors was trained on another mel|'n_mels': 9|student.safetensors|'n_mels': 8|of one mel"
    refuses("evaluate", "model=student.safetensors,other.safetensors", *DATA, words=words)
    words = "`model`|other.safetensors was trained on another mel|teacher.safetensors"
    refuses("evaluate", "model=other.safetensors", MODELS[0], *DATA, words=words)
    words = "`model` must name different things|name each once"
    refuses("evaluate", "model=student.safetensors,./student.safetensors", *DATA, words=words)
    refuses("evaluate", "model=student.safetensors,gone.safetensors", *DATA, words="there is no model file gone.safetensors")
    refuses("evaluate", "model=teacher.safetensors", "student=teacher.safetensors", *DATA, words="`student`|is no student")


def test_folders_that_cannot_be_compared_are_refused(place: Path) -> None:
    other = make_sounds(place / "other", (0.3,) * 5)
    for i in range(5):
        (other / f"{i}.wav").rename(other / f"clip-{i}.wav")
    given = ["reference=sounds", "listen=false"]
    words = "no file in|other|sounds|clip-0, clip-1, clip-2 and 2 more|0, 1, 2|give them the same names"
    refuses("evaluate", *given, "generated=other", words=words)
    refuses("evaluate", *given, words="`reference` and `generated` are needed both")
    refuses("evaluate", "generated=other", words="`reference` and `generated` are needed both")
    refuses("evaluate", *given, "generated=gone", words="there is no gone")
    refuses("evaluate", "reference=gone", "generated=other", words="there is no gone")
    refuses("evaluate", *given, "generated=other,other", words="`generated` must name different things")
    refuses("evaluate", *given, "generated=sounds", "clips=0", words="`clips` must be a whole number")
    outcome = call("evaluate", *given, "generated=sounds", "voicing=false", "jobs=1")
    assert outcome.status == 1
    assert re.search(r"\nwavflow: `reference`: no clip of .* can be compared\. The first: .* has 1600 samples", outcome.err)
    assert not (place / "report").exists()


# --- models ------------------------------------------------------------------------------------------------------------


def test_a_bad_model_file_is_refused(place: Path) -> None:
    """What else can be wrong with one: tests/test_models.py."""
    for name in ("teacher", "student"):
        os.truncate(f"{name}.safetensors", 1000)
    refuses("train", *DISTIL, MODELS[0], words="`teacher`: |teacher.safetensors|not a whole")
    refuses("evaluate", *MODELS, words="not a whole .safetensors")
    refuses_to_synthesize(words="not a whole .safetensors model|get it again")


def test_a_model_that_is_missing_is_named_by_its_option(place: Path) -> None:
    refuses("train", *DISTIL, "teacher=gone.safetensors", words="`teacher`: there is no model file gone")
    refuses("train", "stage=teacher", *DATA, "start=gone.safetensors", words="`start`: there is no model file")
    refuses("benchmark", "model=gone.safetensors", words="`model`: there is no model file gone.safetensors")


# --- inputs ------------------------------------------------------------------------------------------------------------


def nan_wav(path: Path) -> None:
    soundfile.write(path, np.where(np.arange(900) == 400, np.nan, 0.1), 8000, subtype="FLOAT")


def cut_wav(path: Path) -> None:
    soundfile.write(path, tone(), 8000)
    os.truncate(path, 3000)


INPUTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing.wav": (lambda path: None, "there is no file or folder|name audio"),
    "cut.wav": (cut_wav, "is truncated"),  # what else can be wrong with audio: tests/test_audio.py
    "text.txt": (lambda path: path.write_text("no audio at all, but some letters"), "is not audio that can be decoded"),
    "folder": (lambda path: path.mkdir(), "holds no|name another folder"),
    "none.npy": (lambda path: np.save(path, np.zeros((8, 0), np.float32)), "F >= 1"),
    "empty.npy": (lambda path: path.write_bytes(b""), "can't be read as a mel"),
}
MELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bands.npy": (lambda path: np.save(path, np.zeros((80, 5), np.float32)), "(B, 8, F)|(1, 80, 5)"),
    "turned.npy": (lambda path: np.save(path, np.zeros((5, 8), np.float32)), "(B, 8, F)|(1, 5, 8)"),
    "several.npy": (lambda path: np.save(path, np.zeros((3, 8, 5), np.float32)), "one clip's, got 3"),
    "nan.npy": (lambda path: np.save(path, np.full((8, 5), np.nan, np.float32)), "finite"),
    "whole.npy": (lambda path: np.save(path, np.zeros((8, 5), np.int16)), "must be float|int16"),
    "objects.npy": (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "can't be read as a mel"),
    "text.npy": (lambda path: path.write_text("a shopping list"), "can't be read as a mel"),
    "dict.pt": (lambda path: torch.save({"mel": torch.zeros(8, 5)}, path), "holds a dict, not a plain tensor"),
    "text.pt": (lambda path: path.write_text("a shopping list"), "no plain tensor"),
    "nan.pt": (lambda path: torch.save(torch.full((8, 5), torch.inf), path), "finite"),
    "other.safetensors": (lambda path: safetensors.torch.save_file({"x": torch.zeros(8, 5)}, path), "can't be read as a mel"),
    "text.safetensors": (lambda path: path.write_text("a shopping list"), "can't be read as a mel"),
    "list.safetensors": (
        lambda path: safetensors.torch.save_file({"mel": torch.zeros(8, 5)}, path, {"spec": "[1]"}),
        "`spec` is no object of settings",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_bad_inputs_are_refused(place: Path, name: str) -> None:
    make, words = INPUTS[name]
    make(place / name)
    refuses_to_synthesize(f"input={name}", "output=out", words=f"{name}|{words}")


@pytest.mark.parametrize("name", MELS)
def test_bad_mels_are_refused(tmp_path: Path, name: str) -> None:
    make, words = MELS[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        load_mel(tmp_path / name, tiny_mel())
    assert all(word in str(error.value) for word in words.split("|")), error.value


def test_a_mel_of_another_spec_is_refused_with_both_printed(place: Path) -> None:
    spec = wavflow.load_model(place / "student.safetensors").mel.spec | {"hop_length": 32}
    safetensors.torch.save_file({"mel": torch.zeros(8, 5)}, place / "mel.safetensors", {"spec": json.dumps(spec)})
    words = "`mel`|'hop_length': 16|'hop_length': 32"
    refuses_to_synthesize("input=mel.safetensors", words=words)


def test_one_bad_file_of_a_folder_does_not_stop_the_others(place: Path) -> None:
    (place / "sounds/1.wav").write_text("no audio")
    outcome = call("synthesize", "model=student.safetensors", "input=sounds", "output=out")
    assert outcome.status == 1
    assert "2 files" in outcome.out
    assert outcome.err.count("\n") == 1
    assert re.search(r"1 of 3 files failed and were left out: \S*1\.wav\. The first: ", outcome.err)
    assert contents(place / "out") == {"0.wav", "2.wav"}


# --- outputs -----------------------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be_written_are_refused(place: Path) -> None:
    (place / "file").write_text("in the way")
    words = "`output`|choose another place"
    refuses("train", *TRAIN, "data.path=sounds", "output=file/run", words=words)
    refuses("evaluate", *MODELS, *DATA, "output=file/run", words=words)
    words = "`output` must be writable|choose another place"
    refuses_to_synthesize("output=file/run/a.wav", words=words)
    refuses_to_synthesize("input=sounds", "output=file/run", words=words)


@pytest.mark.parametrize("output", ["here", "here/a/b.wav", "here/0.wav"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    output: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "sounds").rename(place / "here")
    monkeypatch.setattr("os.access", lambda path, mode: not (mode == os.W_OK and Path(path) == place / "here"))
    words = "`output` must be writable, got here|no permission to write to"
    refuses("synthesize", "model=none", "input=here", f"output={output}", words=words)


def test_inputs_are_not_overwritten(place: Path) -> None:
    refuses_to_synthesize(f"output={place / 'sounds/0.wav'}", words="`output` would overwrite the input|choose another place")
    refuses_to_synthesize("input=sounds", "output=sounds", words="`output` would overwrite")
    refuses_to_synthesize("input=sounds", words="`output` must be a folder|leave out the .wav")


# --- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("nowhere", lambda path: None, "there is no|nowhere"),  # more of it: tests/test_data.py
        ("bad", lambda path: (path.mkdir(), nan_wav(path / "a.wav"), cut_wav(path / "b.wav")), "none usable|holds NaN"),
    ],
)
def test_data_without_audio_is_refused(place: Path, name: str, make: Callable[[Path], Any], words: str) -> None:
    make(place / name)
    refuses("train", *TRAIN, f"data.path={name}", words=words)
    refuses("evaluate", *MODELS, "data=folder", f"data.path={name}", words=words)


def test_odd_clips_train_and_unreadable_ones_are_skipped_with_a_warning(place: Path) -> None:
    """Shorter than a crop, than a window, than a frame; silent; clipped; 8, 24 and 32 bits; 8 channels; at other rates."""
    folder = place / "odd"
    make_sounds(folder, (0.05, 0.004, 0.001))
    soundfile.write(folder / "silent.wav", np.zeros(1600), 8000)
    soundfile.write(folder / "clipped.wav", np.clip(20 * tone(), -1, 1), 8000)
    soundfile.write(folder / "8bit.wav", tone(), 8000, subtype="PCM_U8")
    soundfile.write(folder / "24bit.flac", tone(), 8000, subtype="PCM_24")
    soundfile.write(folder / "float.wav", tone(sample_rate=11025), 11025, subtype="FLOAT")
    soundfile.write(folder / "8channels.wav", np.stack([tone()] * 8, axis=1), 16000)
    nan_wav(folder / "nan.wav")
    cut_wav(folder / "cut.wav")
    options = [*TRAIN, f"data.path={folder}", "~callbacks.listen", "data.validation=0.4", "data.batch_size=8"]
    with pytest.warns(UserWarning, match=r"2 of 11 audio files can't be used and are skipped: \S*cut.wav, \S*nan.wav"):
        outcome = succeeds("train", *options, "output=run")
    assert re.search(r"after 2 steps: nats -?\d+\.\d+, bits", outcome.out), outcome.out


@pytest.mark.parametrize("samples", [1, 15, 40])
def test_clips_shorter_than_a_window_and_silence_are_synthesized(place: Path, samples: int) -> None:
    (place / "inputs").mkdir()
    soundfile.write(place / "inputs/short.wav", tone()[:samples], 8000)
    soundfile.write(place / "inputs/silent.wav", np.zeros(samples), 8000)
    succeeds("synthesize", "model=student.safetensors", "input=inputs", "output=out")
    for name in ("short.wav", "silent.wav"):
        audio, _ = soundfile.read(place / "out" / name)
        assert len(audio) == -(-samples // 16) * 16
        assert np.isfinite(audio).all()


def test_a_silent_or_short_clip_is_evaluated(place: Path) -> None:
    shutil.rmtree(place / "sounds")
    make_sounds(place / "sounds", (0.003, 0.1))
    soundfile.write(place / "sounds/silent.wav", np.zeros(800), 8000)
    names = ["0", "1", "silent"]
    (place / "split.json").write_text(json.dumps({"train": names, "validation": names, "test": names}))
    options = [*DATA, "data.split=split.json", "seconds=0.05", "voicing=false", "jobs=1"]
    succeeds("evaluate", *MODELS, *options, "output=report")
    figures = json.loads((place / "report" / "figures.json").read_text())
    assert {row["clips"] for row in figures["summary"]} == {0}
    assert [row["system"] for row in figures["left_out"]] == ["all"] * 3
    for row, why in zip(figures["left_out"], ("has 16 samples", "has 400 samples", "is silent|has 400 samples"), strict=True):
        assert re.match(f"the recording ({why})", row["why"])


def test_a_mel_beyond_all_measure_writes_nothing(place: Path) -> None:
    np.save(place / "loud.npy", random_log_mel(4)[0].numpy() + 1e4)
    refuses_to_synthesize("input=loud.npy", "output=loud.wav", words="loud.npy|no value below 0")


def test_any_name_is_taken_and_several_inputs_too(place: Path) -> None:
    for i, name in enumerate(("über", "it's (x)", "a=b")):
        shutil.copy(place / "sounds/0.wav", place / f"{name}.wav")
        succeeds("synthesize", "model=student.safetensors", f"input={name}.wav", f"output=o{i}/{name} # &;.wav")
        assert (place / f"o{i}" / f"{name} # &;.wav").is_file()
    (place / "other").mkdir()
    shutil.copy(place / "sounds/0.wav", place / "other")
    both = ["sounds/0.wav", "other/0.wav"]
    succeeds("synthesize", "model=student.safetensors", "über.wav", "a=b.wav", "-o", "out")
    succeeds("synthesize", "model=student.safetensors", *both, "-o", "both")
    assert contents(place / "out") == {"über.wav", "a=b.wav"}
    assert contents(place / "both") == {"sounds", "sounds/0.wav.wav", "other", "other/0.wav.wav"}
    words = "`output` must be a folder for several inputs"
    refuses("synthesize", "model=student.safetensors", *both, "-o", "one.wav", words=words)
    refuses("synthesize", "model=student.safetensors", "über.wav", "über.wav", "-o", "out", words="names a file twice")
    succeeds("score", "model=teacher.safetensors", *both, "-o", "scores", "pictures=0")
    rows = (place / "scores" / "scores.csv").read_text()
    assert "sounds/0.wav" in rows
    assert "other/0.wav" in rows


def test_a_sweep_has_an_output_for_each_run(place: Path) -> None:
    given = ["model=student.safetensors", "input=sounds/0.wav", "hydra.sweep.dir=sweep"]
    succeeds("synthesize", *given, "-m", "output=o/y.wav", "temperature=0.7,0.9")
    assert contents(place / "o") == {"y-0.wav", "y-1.wav"}
    assert (place / "o" / "y-0.wav").read_bytes() != (place / "o" / "y-1.wav").read_bytes()


def test_names_in_another_encoding_are_read_and_written(place: Path) -> None:
    name = os.fsdecode(b"lat\xe9in.wav")
    shutil.copy(place / "sounds/0.wav", place / name)
    succeeds("synthesize", "model=student.safetensors", f"input={name}", "output=out")
    assert contents(place / "out") == {name}


def test_a_notebooks_own_warnings_stay_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = importlib.import_module("wavflow.train").main  # Lightning has a form of its own
    monkeypatch.setattr(sys, "argv", ["train", "stage=nonsense"])
    form, filters, typed = warnings.formatwarning, list(warnings.filters), list(sys.argv)
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        main()
    assert (warnings.formatwarning, warnings.filters, sys.argv) == (form, filters, typed)


# --- the process itself ------------------------------------------------------------------------------------------------


def test_a_process_ends_in_the_one_line(place: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "wavflow.synthesize", "model=student.safetensors", "input=gone.wav"]
    before = contents(place)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("wavflow: `input`: there is no file or folder gone.wav")
    assert done.stderr.count("\n") == 1
    assert contents(place) == before


def test_faults_of_ours_keep_their_traceback_and_a_user_may_ask_for_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["model=student.safetensors", "input=sounds", "output=out"]
    monkeypatch.setenv("WAVFLOW_TRACEBACK", "1")
    assert "Traceback" in call("synthesize", *given, "input=gone.wav").err

    def fail(error: BaseException) -> Callable[..., None]:
        def load_model(*_: Any) -> None:
            raise error

        return load_model

    monkeypatch.setattr("wavflow.commands.synthesize.load_model", fail(RuntimeError("a fault of ours")))
    refused(lambda: call("synthesize", *given), "a fault of ours", RuntimeError)
    monkeypatch.setattr("wavflow.commands.synthesize.load_model", fail(KeyboardInterrupt()))
    outcome = call("synthesize", *given)
    assert (outcome.status, outcome.err) == (130, "wavflow: interrupted\n")


def test_ctrl_c_during_the_imports_of_a_command_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "wavflow.train"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "wavflow: interrupted\n")
