"""Surprise: content does not matter to it, faults do, and the command ranks by it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import call, is_refused, make_sounds, succeeds
from helpers import random_log_mel, refused, tiny_flow, tiny_student, tiny_teacher

from wavflow.distributions import Gaussian, Logistic
from wavflow.likelihood.scoring import VARIANCE, overall, score
from wavflow.models import save_model


@pytest.mark.parametrize("model", [tiny_teacher, lambda: tiny_flow("waveglow"), lambda: tiny_flow("waveflow")])
@pytest.mark.parametrize("segment_frames", [1, 7, 60])
def test_segments_score_as_one_pass_does(model: object, segment_frames: int) -> None:
    model = model()
    mel, audio = random_log_mel(37), 0.1 * torch.randn(1, 37 * 16)
    scores = score(model, audio, mel, segment_frames=segment_frames)
    with torch.no_grad():
        expected = model.log_prob(audio, mel).unflatten(-1, (-1, 16)).mean(dim=-1)[0]
        torch.testing.assert_close(scores.log_prob, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(scores.surprise, score(model, audio, mel).surprise, rtol=0, atol=1e-8)


@pytest.mark.parametrize("base", VARIANCE)
def test_surprise_has_the_spread_that_it_is_divided_by(base: type[Gaussian] | type[Logistic]) -> None:
    density = base()
    nats = -density.log_prob(density.sample((400_000,)))
    assert float(nats.mean()) == pytest.approx(float(density.entropy()), abs=0.01)
    assert float(nats.var()) == pytest.approx(VARIANCE[base], rel=0.03)


@pytest.mark.parametrize("density", ["gaussian", "logistic", "mixture_of_logistics"])
def test_a_models_own_draws_do_not_surprise_it_whatever_their_level(density: str) -> None:
    teacher = tiny_teacher(density=density).float()  # which draws fast
    mel = (random_log_mel(100) + torch.linspace(-3, 3, 100)).float()  # from soft to loud
    with torch.no_grad():
        surprise = score(teacher, teacher.sample(mel, passes=0), mel).surprise
    assert surprise.mean().abs() < 0.5
    assert 0.7 < surprise.std() < 1.4
    assert abs(float(np.corrcoef(surprise, np.arange(100))[0, 1])) < 0.4


def test_faults_stand_out() -> None:
    teacher = tiny_teacher()
    mel = random_log_mel(60)
    clean = list(teacher.sample(mel.expand(12, -1, -1), passes=0))
    peak = clean[0].abs().max()
    gap = clean[2].clone()
    gap[300:380] = 0.0
    faulty = [clean[0].clamp(-0.05 * peak, 0.05 * peak), clean[1] + 0.1 * peak * torch.randn(960), gap]
    values = [overall(score(teacher, audio[None], mel).surprise) for audio in [*clean[3:], *faulty]]
    assert min(values[-3:]) > 1.1 * max(values[:-3])


def test_a_lone_strange_frame_is_not_the_measure() -> None:
    click, dropout = torch.ones(300), torch.ones(300)
    click[7] = 100.0
    dropout[7:13] = -20.0
    assert overall(click) == pytest.approx(1.0)
    assert overall(dropout) == pytest.approx(20.0)
    assert overall(torch.tensor([3.0])) == pytest.approx(3.0)
    assert overall(torch.tensor([3.0, 2.0])) == pytest.approx(2.0)


def test_refuses_what_it_can_not_score() -> None:
    mel = random_log_mel(3)
    refused(lambda: score(tiny_student(), torch.zeros(1, 48), mel), "`model` must score in one pass")
    refused(lambda: score(tiny_teacher(), torch.zeros(1, 47), mel), r"`audio` must be \(1, 48\) for 3 frames, got \(1, 47\)")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_model(tiny_teacher(std=0.1).float(), tmp_path / "teacher.safetensors")
    save_model(tiny_student().float(), tmp_path / "student.safetensors")
    make_sounds(tmp_path / "sounds")
    make_sounds(tmp_path / "sounds/more", (0.001,))  # shorter than a frame
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_command_ranks_and_writes_tables_and_pictures(place: Path) -> None:
    audio, rate = soundfile.read(place / "sounds/2.wav")
    audio[500:1200] = np.sign(np.sin(np.arange(700))) * 0.9
    soundfile.write(place / "sounds/2.wav", audio, rate)
    options = [f"model={place / 'teacher.safetensors'}", f"input={place / 'sounds'}", f"output={place / 'out'}"]
    outcome = succeeds("score", *options, "frames=true", "pictures=2")
    rows = table(place / "out/scores.csv")
    assert rows[0]["file"] == "2.wav"
    assert {row["file"] for row in rows} == {"0.wav", "1.wav", "2.wav", "3.wav", "more/0.wav"}
    values = [float(row["surprise"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert 500 / 8000 - 0.01 < float(rows[0]["at second"]) < 1200 / 8000
    assert outcome.out.index("2.wav") < outcome.out.index(rows[1]["file"])
    for row in rows:
        frames = table(place / f"out/frames/{row['file']}.csv")
        assert len(frames) == round(float(row["seconds"]) * 8000 / 16)
        assert np.mean([float(f["nats/sample"]) for f in frames]) == pytest.approx(float(row["nats/sample"]))
        assert float(frames[-1]["second"]) == pytest.approx((len(frames) - 1) * 16 / 8000)
    pictures = {path.relative_to(place / "out/pictures").as_posix() for path in (place / "out/pictures").rglob("*.png")}
    assert pictures == {f"{row['file']}.png" for row in rows[:2]}
    again = [f"model={place / 'teacher.safetensors'}", f"input={place / 'sounds/2.wav'}", f"output={place / 'alone'}"]
    succeeds("score", *again, "pictures=0")
    assert table(place / "alone/scores.csv")[0] == rows[0], "a file's figures don't hang on the others"
    assert not (place / "alone/pictures").exists()


def test_command_leaves_out_what_is_no_audio(place: Path) -> None:
    (place / "sounds/text.wav").write_text("no audio")
    model = f"model={place / 'teacher.safetensors'}"
    outcome = call("score", model, f"input={place / 'sounds'}", f"output={place / 'out'}", "pictures=0")
    assert outcome.status == 1
    assert "1 of 6 files failed and were left out: text.wav" in outcome.err
    assert len(table(place / "out/scores.csv")) == 5
    is_refused(place, "score", model, f"input={place / 'gone'}", f"output={place / 'x'}", words="`input`|no file or folder")
    student = f"model={place / 'student.safetensors'}"
    is_refused(place, "score", student, f"input={place / 'sounds'}", f"output={place / 'x'}", words="`model` must score")
    is_refused(place, "score", model, f"input={place / 'sounds'}", f"output={place / 'x'}", "speaker=1", words="`speaker`")
