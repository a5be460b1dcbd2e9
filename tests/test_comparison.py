"""Comparison: perfect scores, known moves, what can't be compared, what is missing, one answer from however many processes."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sounds import SAMPLE_RATE, needs, noise, speech, with_noise
from torch import Tensor

from wavflow.evaluation import comparison, pitch
from wavflow.evaluation.comparison import METRICS, SHORTEST, compare, summarize

BEST = {"low": 0.0, "zero": 0.0, "high": 1.0}
PERFECT = {name: pytest.approx(BEST[metric.better], abs=1e-6) for name, metric in METRICS.items() if metric.measure}
PERFECT["PESQ"] = pytest.approx(4.644, abs=1e-3)


def of_one(sounds: dict[str, Tensor], voicing: bool = False, **options: Any) -> dict[str, dict[str, Any]]:
    """Rows of one clip by system."""
    return {row["system"]: row for row in compare({"clip": sounds}, SAMPLE_RATE, voicing, jobs=1, **options).rows}


@needs("pesq")
@needs("pystoi")
@needs("pyworld")
@pytest.mark.parametrize("lag", [None, 64, -64])
def test_identical_audio_is_perfect_in_every_metric_once_its_lag_is_out(lag: int | None) -> None:
    """With a lag of None it is not looked for, and is no metric."""
    audio = speech(seconds=1.5)
    late = audio.roll(lag or 0)  # what wraps around is silence

    compared = compare({"clip": {"recording": audio, "same": late}}, SAMPLE_RATE, align=lag is not None, jobs=1)

    recording, same = compared.rows
    wanted = PERFECT if lag is None else PERFECT | {"lag ms": pytest.approx(1000 * lag / SAMPLE_RATE)}
    if lag:  # frames and periods are cut elsewhere
        wanted |= dict.fromkeys(("DIO F1", "voicing F1"), pytest.approx(1.0, abs=0.05)) | {"F0 cents": pytest.approx(0, abs=9)}
    assert same == {"clip": "clip", "system": "same"} | wanted
    assert recording.keys() == same.keys()
    assert METRICS.keys() - same.keys() == ({"lag ms"} if lag is None else set()) | {"x real time"}
    assert compared.tracks["clip"].keys() == {"recording", "same"}
    assert not compared.left_out
    assert not compared.missing


def test_what_cannot_be_compared_is_named_excluded_and_counted() -> None:
    audio = speech(seconds=0.5)
    broken = audio.clone()
    broken[100] = math.nan
    faults = {
        "silent": (torch.zeros(len(audio)), "is silent"),
        "dequantized silence": ((torch.rand(len(audio)) - 0.5) / 32768, "is silent"),
        "one sample": (torch.ones(1), "has 1 samples"),
        "empty": (torch.zeros(0), "has 0 samples"),
        "short": (audio[: SHORTEST - 1], f"has {SHORTEST - 1} samples: at least {SHORTEST} are needed"),
        "NaN": (broken, "holds NaN or infinity"),
    }
    clips = {fault: {"recording": audio, "a": sound, "never": sound} for fault, (sound, _) in faults.items()}
    clips["good"] = {"recording": audio, "a": 2.0 * audio, "never": broken}
    clips["no recording"] = {"recording": broken, "a": audio}

    compared = compare(clips, SAMPLE_RATE, voicing=False, align=True, jobs=1)

    found = {(row["clip"], row["system"]): row["why"] for row in compared.left_out}
    assert len(compared.left_out) == len(found) == 2 * len(faults) + 2
    for fault, (_, words) in faults.items():
        assert words in found[fault, "a"]
        assert words in found[fault, "never"]
    assert found["no recording", "all"] == "the recording holds NaN or infinity"
    recording, a, never = summarize(compared.rows, ["recording", "a", "never"])
    assert (recording["clips"], a["clips"], never["clips"]) == (len(faults) + 1, 1, 0)
    assert a["level dB"].mean == pytest.approx(20 * math.log10(2.0))
    assert math.isnan(never["level dB"].mean)


def test_unequal_lengths_are_cut_and_a_lag_that_leaves_too_little_is_not_taken_out() -> None:
    audio = noise(SHORTEST + 40)
    sounds = {"recording": audio, "shorter": audio[:-20], "longer": audio.repeat(2), "late": audio.roll(41)}
    rows = of_one(sounds, align=True)
    assert (rows["shorter"]["M-STFT"], rows["longer"]["M-STFT"]) == (0.0, 0.0)
    assert rows["late"]["lag ms"] == 0.0

    rows = of_one({"recording": audio, "late": audio.roll(40)}, align=True)
    assert rows["late"]["lag ms"] == pytest.approx(1000 * 40 / SAMPLE_RATE)
    assert rows["late"]["M-STFT"] == 0.0, "the least that can be compared is compared"


@pytest.mark.parametrize(
    ("library", "metric"), [("pesq", "PESQ"), ("pystoi", "ESTOI"), ("pyworld", "DIO F1")], ids=["pesq", "pystoi", "pyworld"]
)
def test_a_missing_library_costs_its_own_metric_alone(monkeypatch: pytest.MonkeyPatch, library: str, metric: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    audio = speech(seconds=1.0)

    compared = compare({"clip": {"recording": audio, "same": audio}}, SAMPLE_RATE, voicing=False, jobs=1)

    assert metric in compared.missing
    row = compared.rows[1]
    assert row[metric] is None
    assert row["M-STFT"] == 0.0
    (_, summary) = summarize(compared.rows, ["recording", "same"])
    assert math.isnan(summary[metric].mean)
    assert summary[metric].n == 0
    assert summary["clips"] == 1


def test_the_recording_is_tracked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = []

    def track(audio: Tensor, sample_rate: int) -> Any:
        tracked.append(audio)
        return torch.full((9,), 100.0).numpy()

    monkeypatch.setattr(pitch, "dio_track", track)
    monkeypatch.setattr(pitch, "pyin_track", track)
    audio = noise(4000)
    rows = of_one({"recording": audio, "a": 0.5 * audio, "b": 2.0 * audio}, voicing=True)
    assert len(tracked) == 2 * 3
    assert rows["b"]["voicing F1"] == rows["b"]["DIO F1"] == 1.0


def test_pitch_errors_are_those_of_the_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sound an octave up for a quarter of the frames, unvoiced in a half; 10 cents off in the rest."""
    recording, other = noise(4000), noise(4000)
    wanted = torch.full((8,), 100.0).numpy()
    found = torch.tensor([200.0, 200.0, *[math.nan] * 4, *[100.0 * 2 ** (10 / 1200)] * 2]).numpy()
    monkeypatch.setattr(pitch, "pyin_track", lambda audio, _: wanted if torch.equal(audio, recording) else found)

    row = of_one({"recording": recording, "other": other}, voicing=True)["other"]

    assert row["voicing F1"] == pytest.approx(2 * 4 / (4 + 8))
    assert row["F0 cents"] == pytest.approx(10.0)
    assert row["F0 gross %"] == pytest.approx(50.0)


def test_progress_sees_each_clip_and_their_number() -> None:
    seen = []

    def progress(items: Any, task: str) -> Iterator[Any]:
        assert len(items) == 3, "or a bar could not tell how much is left"
        assert task == "comparing"
        for item in items:
            yield item
            seen.append(item)

    audio = noise(SHORTEST)
    compared = compare({name: {"recording": audio} for name in "abc"}, SAMPLE_RATE, False, jobs=1, progress=progress)
    assert seen == ["a", "b", "c"] == [row["clip"] for row in compared.rows]


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same() -> None:
    torch.set_default_dtype(torch.float32)
    clips = {str(i): {"recording": (clip := speech(i, 0.4).float()), "noisy": with_noise(clip, 20)} for i in range(2)}
    clips["1"]["noisy"] = torch.zeros(9)

    one, two = (compare(clips, SAMPLE_RATE, voicing=False, align=True, jobs=jobs) for jobs in (1, 2))

    assert len(one.rows) == len(two.rows) == 3
    for first, second in zip(one.rows, two.rows, strict=True):
        assert (first.pop("clip"), first.pop("system")) == (second.pop("clip"), second.pop("system"))
        assert first == pytest.approx(second, rel=1e-4, abs=1e-5, nan_ok=True)
    assert one.left_out == two.left_out
    assert len(one.left_out) == 1
    assert list(comparison.parallel(_threads, [(1,), (2,)], jobs=2)) == [(1, 1), (2, 1)], "each has one thread"


def test_summary_is_the_mean_over_clips_with_the_speed() -> None:
    rows = [{"clip": str(i), "system": "a", "mel L1": float(i)} for i in range(3)]
    rows.append({"clip": "0", "system": "b", "mel L1": 7.0})
    second, first = summarize(rows, ["b", "a"], {"a": 5.0})

    assert (first["system"], first["mel L1"].mean, first["mel L1"].n) == ("a", 1.0, 3)
    assert first["mel L1"].half_width == pytest.approx(4.302653 / math.sqrt(3))  # Student's t of two degrees of freedom
    assert (first["x real time"], first["clips"], second["clips"]) == (5.0, 3, 1)
    assert second["mel L1"].mean == 7.0
    assert math.isnan(second["x real time"])
    assert "x real time" not in summarize(rows, ["a"])[0]


def test_comparing_in_this_process_leaves_its_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        compare({"clip": {"recording": noise(SHORTEST)}}, SAMPLE_RATE, False, jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def _threads(number: int) -> tuple[int, int]:
    return number, torch.get_num_threads()
