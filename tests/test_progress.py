"""What a training says and shows: its first lines, and TensorBoard's file; the bar is in test_training.py."""

from pathlib import Path

import pytest
import soundfile
import yaml
from commands import TRAIN, contents, is_refused, make_sounds, succeeds, tone
from helpers import tiny_teacher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wavflow import progress, save_model
from wavflow.cli import newest_model


def test_a_training_says_what_it_trains_on_where_and_for_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SLOW_ON_A_CPU", 100)
    sounds = make_sounds(tmp_path / "sounds")
    soundfile.write(sounds / "low.wav", tone(0.3, sample_rate=4000), 4000)
    soundfile.write(sounds / "few.wav", tone(0.3)[:7], 8000)
    options = [*TRAIN, f"data.path={sounds}", "net.whitening=8", "callbacks.listen.stepwise_seconds=0.02"]
    lines = succeeds("train", "stage=teacher", *options, "minutes=60", f"output={tmp_path / 'run'}").out
    data_line, net_line, output_line, *others, last = lines.splitlines()
    notes = [line for line in others if line.startswith("Note: ")]  # before the bar
    assert data_line.startswith("Data: 6 files, 0.0 minutes: ")
    assert "parameters, on cpu, " in net_line
    assert net_line.endswith("at most 2 steps or 60 minutes.")
    assert output_line == f"Output: {tmp_path / 'run'}"
    assert len(notes) == 3
    assert notes[0].startswith("Note: 1 of 6 files have fewer samples per second than the model's 8000, as few as 4000")
    assert "are shorter than 64 samples, a window of the mel" in notes[1]
    assert "few.wav" in notes[1]
    assert "net=teacher_small" in notes[2]
    assert "after 2 steps" in last

    # TensorBoard: one file, two tags, and the options
    files = [name for name in contents(tmp_path / "run" / "logs") if "tfevents" in name]
    assert len(files) == 1
    events = EventAccumulator(str(tmp_path / "run" / "logs" / files[0])).Reload()
    assert events.Tags()["images"] == ["spectrogram"]
    assert events.Tags()["audio"] == ["sound"]
    assert len(events.Scalars("validation/loss")) == 2, "untrained and trained"
    assert yaml.safe_load((tmp_path / "run" / "logs" / "hparams.yaml").read_text())["net"]["layers"] == 2


@pytest.mark.parametrize(("stage", "net"), [("teacher", "student_small"), ("student", "teacher_small")])
def test_a_net_of_another_stage_is_refused_in_one_line(stage: str, net: str, tmp_path: Path) -> None:
    options = [*TRAIN, f"data.path={make_sounds(tmp_path / 'sounds')}", f"output={tmp_path / 'run'}"]
    if stage == "student":
        save_model(tiny_teacher(), tmp_path / "teacher.safetensors")
        options.append(f"teacher={tmp_path / 'teacher.safetensors'}")
    words = f"`net` must be one of the stage, got net={net} with stage={stage}: leave net=... out"
    is_refused(tmp_path, "train", f"stage={stage}", f"net={net}", *options, words=words)


def test_the_newest_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("runs/teacher/mine/model.safetensors")
    path.parent.mkdir(parents=True)
    path.touch()
    assert newest_model("teacher", "model") == path
    assert capsys.readouterr().err == f"No teacher was named: model={path}, the newest of runs/teacher.\n"
