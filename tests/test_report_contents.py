"""Reports put together: which rows, tables, plots and notes there are, and which sounds a listening test takes."""

import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from commands import make_sounds, tone
from helpers import MEL, refused, tiny_flow, tiny_student, tiny_teacher
from torch import Tensor

from wavflow import Vocoder
from wavflow.evaluation.comparison import METRICS
from wavflow.evaluation.report import contents
from wavflow.evaluation.report.contents import report_on_folders, report_on_models, write_listening_page
from wavflow.evaluation.report.folder import Report
from wavflow.evaluation.systems import Clip
from wavflow.reporting.intervals import Interval

FRAMES = 140  # 2240 samples: the least that can be judged is 2048


@pytest.fixture(autouse=True)
def _float32() -> None:
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back


def clips_of(model: Vocoder, count: int = 2) -> list[Clip]:
    audio = [torch.from_numpy(tone(FRAMES * 16 / 8000, 150 + 40 * i)).float()[None] for i in range(count)]
    return [Clip(f"clip {i}", sound, model.mel(sound)) for i, sound in enumerate(audio)]


def report_on(models: dict[str, Vocoder], paths: dict[str, Path] | None = None, **options: Any) -> Report:
    paths = {name: Path(f"{name}.safetensors") for name in models} if paths is None else paths
    clips = clips_of(next(iter(models.values())))
    return report_on_models(clips, models, paths, **{"voicing": False, "jobs": 1, "passes": 0} | options)


def test_report_on_models(tmp_path: Path) -> None:
    """A student that was trained for a minute, and a flow of which nobody knows for how long."""
    models = {"teacher": tiny_teacher(0.05), "a": tiny_student(0.05)}
    models["flow"] = tiny_flow("waveglow", 0.02)
    models["a"].info = {"steps": 13047, "stage": "X", "seconds": 60.0, "data": "LJSpeech", "speakers": ["p", "q", "r"]}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.csv").write_text("step,train/loss\n1,2\n")
    paths = {"teacher": Path("t.safetensors"), "a": tmp_path / "model.safetensors", "flow": Path("f.safetensors")}
    report = report_on(models, paths, teacher=models["teacher"], temperature=0.5)
    systems = ["recording", "Griffin-Lim", "WORLD", "random phase", "whitening alone", "teacher", "a", "flow"]
    assert [row["system"] for row in report.summary] == systems
    assert {row["clips"] for row in report.summary} == {2}
    assert [(row["clip"], row["system"]) for row in report.clips] == list(itertools.product(["clip 0", "clip 1"], systems))
    assert {clip: list(sounds) for clip, sounds in report.sounds.items()} == dict.fromkeys(["clip 0", "clip 1"], systems)
    likelihoods, divergences, facts = report.tables.values()
    assert [row["likelihood of"] for row in likelihoods] == ["FLAC", "whitening alone", "teacher", "flow"]
    assert [row["divergence of"] for row in divergences] == ["untrained a", "a", "untrained flow", "flow"]
    assert [(row["model"], row["minutes"]) for row in facts] == [("teacher", None), ("a", 1.0), ("flow", None)]
    assert facts[1]["parameters"] == sum(p.numel() for p in models["a"].parameters())
    assert facts[0]["receptive field, ms"] == models["teacher"].receptive_field / 8
    assert list(report.log_probs["clip 1"]) == ["teacher", "flow"]
    assert report.curves == {"a": tmp_path / "logs" / "metrics.csv"}
    for column in ("bits/sample", "nats/sample", "KL"):
        assert column in report.legend
    assert (report.legend["KL"].better, report.legend["nats/sample"].better) == ("low", "high")
    assert report.legend.keys() > METRICS.keys()
    assert any("temperature 0.5" in note for note in report.notes)
    in_words = f"a: {paths['a']}, 13,047 steps, 1 min, data: LJSpeech, 3 speakers"
    assert report.notes[:3] == ["teacher: t.safetensors", in_words, "flow: f.safetensors"]
    speed, trained = report.scatters
    quality = {row["system"]: row["M-STFT"].mean for row in report.summary}
    assert {name: y for name, _, y in speed.points} == {name: quality[name] for name in systems[1:]}
    assert trained.points == [("a", 1.0, quality["a"])]


def test_a_report_without_teacher_seconds_or_library_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyworld", None)
    report = report_on({"a": tiny_student(0.05, mel=MEL, whitening=0)})
    assert [row["system"] for row in report.summary] == ["recording", "Griffin-Lim", "random phase", "a"]
    assert list(report.tables) == ["Likelihood of the recordings", "What was trained"]
    assert [scatter.title for scatter in report.scatters] == ["Quality against speed"]
    assert "not computed, because a library is missing: DIO F1, WORLD (pip install 'wavflow[eval]')" in report.notes
    assert not any("whitening alone" in note for note in report.notes)


def test_the_envelope_alone_is_not_plotted() -> None:
    rows = [{"system": name, "M-STFT": Interval(1.0, 0.1, 2), "x real time": 2.0} for name in ("envelope alone", "WORLD", "a")]
    (speed,) = contents._scatters(rows, {})
    assert speed.points == [("WORLD", 2.0, 1.0), ("a", 2.0, 1.0)]


def test_an_equalized_model_that_draws_nonsense_is_in_the_table_and_not_in_the_plot() -> None:
    model = tiny_student(0.05)
    model.sample = lambda mel, *_, **__: torch.full((1, mel.shape[-1] * 16), math.nan)  # type: ignore[method-assign]
    report = report_on({"a": model}, passes=1)
    assert any("equalized to their mel in 1 passes" in note for note in report.notes)
    systems = ["a, 0 passes", "a"]
    assert [(row["system"], row["clips"]) for row in report.summary[-2:]] == [(name, 0) for name in systems]
    assert [(row["clip"], row["system"], row["why"]) for row in report.left_out] == [
        (clip, name, "holds NaN or infinity") for clip in ("clip 0", "clip 1") for name in systems
    ]
    assert not {name for scatter in report.scatters for name, *_ in scatter.points}.intersection(systems)


def test_report_on_folders_takes_the_lag_out(tmp_path: Path) -> None:
    reference = make_sounds(tmp_path / "r", (0.4, 0.5))
    for name, lag in (("0", 24), ("1", 40)):
        audio, _ = soundfile.read(reference / f"{name}.wav")
        (tmp_path / "late").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "late" / f"{name}.wav", torch.from_numpy(audio).roll(lag).numpy(), 8000)
        (tmp_path / "other").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "other" / f"{name}.wav", 0.5 * audio, 8000)
    report = report_on_folders(reference, {"late": tmp_path / "late", "other": tmp_path / "other"}, voicing=False, jobs=1)
    recording, late, other = report.summary
    assert [row["system"] for row in report.summary] == ["recording", "late", "other"]
    assert late["lag ms"].mean == pytest.approx(4.0)
    assert late["M-STFT"].mean == pytest.approx(0.0, abs=1e-6)
    assert (recording["lag ms"].mean, other["lag ms"].mean) == (0.0, 0.0)
    assert other["level dB"].mean == pytest.approx(-6.02, abs=0.01)
    assert "x real time" not in late
    assert (report.sample_rate, len(report.sounds["1"]["late"])) == (8000, 4000)
    assert f"recordings: {reference}" in report.notes


def test_folders_in_which_nothing_can_be_judged_are_refused(tmp_path: Path) -> None:
    reference, folder = make_sounds(tmp_path / "r", (0.4,)), make_sounds(tmp_path / "g", (0.1,))
    report = report_on_folders(reference, {"g": folder}, voicing=False, jobs=1)
    assert [row["clips"] for row in report.summary] == [1, 0]
    with pytest.raises(
        ValueError, match=r"`reference`: no clip of .*/g can be compared\. The first: the recording has 800 samples"
    ):
        report_on_folders(folder, {"g": reference}, voicing=False, jobs=1)


def test_a_page_plays_the_first_clips_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SHOWN", 2)
    reference = make_sounds(tmp_path / "r", (0.3,) * 3)
    report = report_on_folders(reference, {"same": reference}, voicing=False, jobs=1)
    assert list(report.sounds) == ["0", "1"]
    assert len(report.clips) == 6
    assert "the first 2 of 3 clips can be heard here; the metrics are of all" in report.notes
    assert not any("can be heard" in note for note in report_on_folders(reference, {"same": reference}, 2, False, 1).notes)


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Returns what a listening test would be made of."""

    def listen(systems: list[str], models: list[str], sounds: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
        taken: dict[str, Any] = {}

        def write(path: Path, sounds: dict[str, Any], sample_rate: int, pairs: list[tuple[str, str]], title: str) -> None:
            taken.update(sounds=sounds, pairs=pairs)

        monkeypatch.setattr(contents, "write_listening_test", write)
        summary = [{"system": system} for system in systems]
        report = Report("A report", 22050, summary=summary, sounds=sounds, models=dict.fromkeys(models, tiny_student()))
        write_listening_page("listen.html", report)
        return taken

    return listen


def test_listeners_compare_models_anchors_and_recording(listen: Callable[..., dict[str, Any]]) -> None:
    systems = ["recording", "WORLD", "envelope alone", "a", "b"]
    good = {system: torch.ones(100 + i) for i, system in enumerate(systems)}
    silent, lacking, broken = dict(good), dict(good), dict(good)
    silent["a"], broken["WORLD"] = torch.rand(100) / 40000, torch.full((100,), math.nan)
    del lacking["b"]
    sounds = {"good": good, "silent": silent, "lacking": lacking, "broken": broken}
    taken = listen(systems, ["a", "b"], sounds)
    assert {clip: list(row) for clip, row in taken["sounds"].items()} == {"good": ["recording", "WORLD", "a", "b"]}
    assert {len(sound) for sound in taken["sounds"]["good"].values()} == {100}
    assert taken["pairs"] == [("recording", "a"), ("recording", "b"), ("a", "b")]
    two = {"recording": torch.ones(9), "x": torch.ones(9)}
    assert listen(list(two), [], {"good": two})["pairs"] == [("recording", "x")]


@pytest.mark.parametrize(("models", "anchors"), [(2, 5), (6, 1), (7, 0), (12, 0)])
def test_a_screen_takes_so_many_systems(listen: Callable[..., dict[str, Any]], models: int, anchors: int) -> None:
    names = [f"model {i}" for i in range(models)]
    systems = ["recording", *(f"anchor {i}" for i in range(6)), *names]
    taken = listen(systems, names, {"clip": {system: torch.ones(9) for system in systems}})
    chosen = list(taken["sounds"]["clip"])
    assert len(chosen) == 8
    assert len([name for name in chosen if name.startswith("anchor")]) == anchors
    assert {name for pair in taken["pairs"] for name in pair} == {"recording", *names[:7]}


def test_no_clip_for_listeners_is_said(tmp_path: Path) -> None:
    report = Report("A report", 8000, summary=[{"system": "recording"}, {"system": "a"}])
    refused(lambda: write_listening_page(tmp_path / "listen.html", report), "must hold at least one clip")
