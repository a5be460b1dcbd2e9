"""Compares sounds with recordings: every metric of every system on every clip, in parallel over clips.

To add a metric, write its function (of two clips or two pitch tracks) and add a line to `METRICS`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from torch import Tensor

from wavflow.clips import MissingLibraryError
from wavflow.evaluation import alignment, metrics, perception, pitch
from wavflow.reporting.intervals import mean_interval
from wavflow.threads import processors

Progress = Callable[[Iterable[Any], str], Iterable[Any]]  # wraps clips as they are done, given what is done with them
RECORDING = "recording"  # the first sound of a clip, in tables and pages
SHORTEST = 2048  # samples: a window of the longest STFT and of the pitch tracker
SILENT = 2.0**-15  # a step of 16 bits: the noise that dequantizes digital silence stays below it


class Pair(NamedTuple):
    """A sound and the recording."""

    sounds: tuple[Tensor, Tensor]  # aligned, (T,) each
    sample_rate: int
    tracks: Callable[[str], list[np.ndarray]]  # their pitch by a tracker, "dio" or "pyin"


class Metric(NamedTuple):
    """A column of the tables."""

    better: str  # "low", "high", or nearest to "zero"
    meaning: str
    measure: Callable[[Pair], float] | None = None  # of a sound; None for what is measured elsewhere
    by_pyin: bool = False  # is slow: left out with `voicing=False`


METRICS = {
    "level dB": Metric("zero", "RMS beside the recording's", lambda p: metrics.level_db(*p.sounds)),
    "M-STFT": Metric(
        "low",
        "multi-resolution STFT distance, full band: 1 dB of level costs .2, 64 samples of lag .5",
        lambda p: metrics.m_stft(*p.sounds, p.sample_rate),
    ),
    "M-STFT 8k": Metric("low", "the same up to 8 kHz", lambda p: metrics.m_stft(*p.sounds, p.sample_rate, f_max=8000.0)),
    "LSD dB": Metric("low", "log-spectral distance, full band", lambda p: metrics.log_spectral_distance(*p.sounds)),
    "mel L1": Metric(
        "low",
        "mean absolute difference of ln mel, full band",
        lambda p: metrics.mel_l1(*p.sounds, metrics.judging_mel(p.sample_rate)),
    ),
    "mel L1 8k": Metric(
        "low",
        "the same up to 8 kHz: Griffin-Lim starts from it and wins",
        lambda p: metrics.mel_l1(*p.sounds, metrics.judging_mel(p.sample_rate, 8000.0)),
    ),
    "ESTOI": Metric(
        "high", "extended intelligibility, 0 to 1, at 10 kHz", lambda p: perception.estoi(*p.sounds, p.sample_rate)
    ),
    "PESQ": Metric(
        "high",
        "wide-band PESQ, 1 to 4.64, at 16 kHz; says little below 1.2",
        lambda p: perception.pesq_wb(*p.sounds, p.sample_rate),
    ),
    "DIO F1": Metric(
        "high",
        "is it voiced where the recording is voiced? by DIO, which fails where phase is random",
        lambda p: pitch.voicing_f1(*p.tracks("dio")),
    ),
    "voicing F1": Metric(
        "high",
        "the same by pYIN, which may take the ringing of a whisper for a voice",
        lambda p: pitch.voicing_f1(*p.tracks("pyin")),
        by_pyin=True,
    ),
    "F0 cents": Metric(
        "low",
        "RMS error of the pitch where both are voiced, errors above 600 cents aside",
        lambda p: pitch.f0_rmse_cents(*p.tracks("pyin")),
        by_pyin=True,
    ),
    "F0 gross %": Metric(
        "low",
        "percentage of those errors above 600 cents",
        lambda p: 100.0 * pitch.gross_error_fraction(*p.tracks("pyin")),
        by_pyin=True,
    ),
    "lag ms": Metric("zero", "how late it comes, estimated; taken out before the other metrics"),
    "x real time": Metric("high", "seconds of audio generated per second"),
}
"""Column to metric, in the order of the tables."""


class Evaluation(NamedTuple):
    """A row per clip and system, the pitch tracks, and what was left out and why."""

    rows: list[dict[str, Any]]
    tracks: dict[str, dict[str, np.ndarray]]  # clip -> system -> Hz every 256 samples, nan where unvoiced
    left_out: list[dict[str, str]]

    @property
    def missing(self) -> list[str]:
        """Names of the metrics that no row has, because a library is missing."""
        return [name for name in METRICS if {row[name] for row in self.rows if name in row} == {None}]


def compare(
    clips: Mapping[str, Mapping[str, Tensor]],
    sample_rate: int,
    voicing: bool = True,
    align: bool = False,
    jobs: int | None = None,
    progress: Progress = lambda clips, task: clips,
) -> Evaluation:
    """Measures every system on every clip against the clip's first sound, the recording.

    What can't be compared (silent or very short sounds, NaN) is named in `left_out` and has no row.

    Args:
        clips: Clip to system to audio (T,) in [-1, 1).
        sample_rate: In Hz, of all of them.
        voicing: Whether to track the pitch with pYIN, which takes longer than all else together.
        align: Whether to estimate the lag of each sound and to take it out. What is longer than the other is cut.
        jobs: Processes; all processors if None.
        progress: Wraps the clips' names as they are done.
    """
    tasks = [(name, dict(sounds), sample_rate, voicing, align) for name, sounds in clips.items()]
    whole = Evaluation([], {}, [])
    for _, part in zip(progress(clips, "comparing"), parallel(_compare, tasks, jobs), strict=True):
        whole.rows.extend(part.rows)
        whole.tracks.update(part.tracks)
        whole.left_out.extend(part.left_out)
    return whole


def parallel(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int | None) -> Iterator[Any]:
    """Calls a function with each task's arguments, in `jobs` processes of one thread each; yields the results in order."""
    jobs = min(len(tasks), processors() if jobs is None else jobs)
    if jobs <= 1:
        return (function(*task) for task in tasks)
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        return joblib.Parallel(jobs, return_as="generator")(joblib.delayed(function)(*task) for task in tasks)


def summarize(
    rows: Sequence[Mapping[str, Any]], systems: Iterable[str], speeds: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Returns one row per system: each metric's mean with its 95 % interval over clips, and how many clips that is.

    Args:
        rows: As `compare` returns them.
        systems: In the order of the table; one of which no clip could be compared has no metrics and 0 clips.
        speeds: System to how many times faster than real time it generates.
    """
    names = [name for name in METRICS if any(name in row for row in rows)]
    summary = []
    for system in systems:
        own = [row for row in rows if row["system"] == system]
        values = {name: [math.nan if row[name] is None else row[name] for row in own] for name in names}
        speed = {} if speeds is None else {"x real time": speeds.get(system, math.nan)}
        summary.append(
            {"system": system, **{name: mean_interval(value) for name, value in values.items()}, **speed, "clips": len(own)}
        )
    return summary


def _compare(clip: str, sounds: dict[str, Tensor], sample_rate: int, voicing: bool, align: bool) -> Evaluation:
    """Compares the sounds of one clip."""
    recording, reference = next(iter(sounds.items()))
    found = Evaluation([], {clip: {}}, [])
    if fault := _fault(reference):
        found.left_out.append({"clip": clip, "system": "all", "why": f"the {recording} {fault}"})
        return found

    @functools.cache  # a sound is tracked once, and most systems are compared with the same part of the recording
    def track(tracker: str, system: str, start: int, length: int) -> np.ndarray:
        audio = sounds[system][start : start + length]
        return pitch.dio_track(audio, sample_rate) if tracker == "dio" else pitch.pyin_track(audio, sample_rate)

    def both(places: Iterable[tuple[str, int, int]], tracker: str) -> list[np.ndarray]:
        return [track(tracker, *place) for place in places]

    for system, audio in sounds.items():
        if fault := _fault(audio):
            found.left_out.append({"clip": clip, "system": system, "why": fault})
            continue
        lag = alignment.estimate_lag(audio, reference, sample_rate) if align else 0
        if min(len(audio), len(reference)) - abs(lag) < SHORTEST:
            lag = 0  # too little would be left
        generated, part = alignment.align(audio, reference, lag)
        places = (system, max(lag, 0), len(part)), (recording, max(-lag, 0), len(part))
        pair = Pair((generated, part), sample_rate, functools.partial(both, places))
        row: dict[str, Any] = {"clip": clip, "system": system}
        for name, metric in METRICS.items():
            if metric.measure and (voicing or not metric.by_pyin):
                try:
                    row[name] = metric.measure(pair)
                except MissingLibraryError:
                    row[name] = None
        found.rows.append(row | ({"lag ms": 1000.0 * lag / sample_rate} if align else {}))
        if voicing:
            found.tracks[clip][system] = pair.tracks("pyin")[0]
    return found


def _fault(audio: Tensor) -> str | None:
    """Says why a sound can't be compared."""
    if len(audio) < SHORTEST:
        return f"has {len(audio)} samples: at least {SHORTEST} are needed"
    if not bool(torch.isfinite(audio).all()):
        return "holds NaN or infinity"
    return "is silent" if audio.abs().max() < SILENT else None
