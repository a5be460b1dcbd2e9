"""Judging sounds against recordings: every figure of every system on every clip, in parallel over clips."""

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

Progress = Callable[[Iterable[Any]], Iterable[Any]]
RECORDING = "recording"  # the first sound of a clip, in tables and pages
SHORTEST = 2048  # samples: a window of the longest STFT and of the pitch tracker
SILENT = 2.0**-15  # a step of 16 bits: the noise that dequantizes digital silence stays below it


class Metric(NamedTuple):
    """What a figure means, and which way is better: "low", "high", or nearest to "zero" or "one"."""

    better: str
    meaning: str


METRICS = {
    "level dB": Metric("zero", "RMS beside the recording's"),
    "M-STFT": Metric("low", "multi-resolution STFT distance, full band: 1 dB of level costs .2, 64 samples of lag .5"),
    "M-STFT 8k": Metric("low", "the same up to 8 kHz"),
    "LSD dB": Metric("low", "log-spectral distance, full band"),
    "mel L1": Metric("low", "mean absolute difference of ln mel, full band"),
    "mel L1 8k": Metric("low", "the same up to 8 kHz: Griffin-Lim starts from it and wins"),
    "ESTOI": Metric("high", "extended intelligibility, 0 to 1, at 10 kHz"),
    "PESQ": Metric("high", "wide-band PESQ, 1 to 4.64, at 16 kHz; says little below 1.2"),
    "DIO F1": Metric("high", "does it hum where the recording hums? by DIO, which fails where phase is random"),
    "voicing F1": Metric("high", "the same by pYIN, which may take the ringing of a whisper for a hum"),
    "F0 cents": Metric("low", "RMS error of the pitch where both are voiced, errors above 600 cents aside"),
    "F0 gross %": Metric("low", "share of those errors above 600 cents"),
    "lag ms": Metric("zero", "how late it comes, estimated; taken out before the other figures"),
    "x real time": Metric("high", "seconds of audio drawn per second"),
}


class Evaluation(NamedTuple):
    """What came of judging: a row per clip and system, the pitch tracks, and what was left out and why."""

    rows: list[dict[str, Any]]
    tracks: dict[str, dict[str, np.ndarray]]  # clip -> system -> Hz every 256 samples, nan where unvoiced
    left_out: list[dict[str, str]]

    @property
    def missing(self) -> list[str]:
        """Names of the figures that no row has, for want of a library."""
        return [name for name in METRICS if (found := [row[name] for row in self.rows if name in row]) and set(found) == {None}]


def judge(
    clips: Mapping[str, Mapping[str, Tensor]],
    sample_rate: int,
    voicing: bool = True,
    align: bool = False,
    jobs: int | None = None,
    progress: Progress = iter,
) -> Evaluation:
    """Judges every system on every clip against the clip's first sound, the recording.

    Args:
        clips: Clip to system to audio (T,) in [-1, 1).
        sample_rate: In Hz, of all of them.
        voicing: Whether to track the pitch with pYIN, which takes longer than all else together.
        align: Whether to estimate the lag of each sound and to take it out. What is longer than the other is cut.
        jobs: Processes; all processors if None.
        progress: Wraps the clips' names as they are judged.

    Returns:
        What can't be judged (silent or very short sounds, NaN) is named in `left_out` and has no row.
    """
    tasks = ((name, dict(sounds), sample_rate, voicing, align) for name, sounds in clips.items())
    judged = Evaluation([], {}, [])
    for name, (rows, tracks, left_out) in zip(progress(clips), parallel(_judge_clip, tasks, len(clips), jobs), strict=True):
        judged.rows.extend(rows)
        judged.tracks[name] = tracks
        judged.left_out.extend(left_out)
    return judged


def parallel(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], count: int, jobs: int | None) -> Iterator[Any]:
    """Calls a function with each of `count` tasks' arguments in processes of one thread, and yields the results in order."""
    jobs = min(count, joblib.cpu_count() if jobs is None else jobs)
    if jobs <= 1:
        return (function(*task) for task in tasks)
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        return joblib.Parallel(jobs, return_as="generator")(joblib.delayed(function)(*task) for task in tasks)


def summarize(
    rows: Sequence[Mapping[str, Any]], systems: Iterable[str], speeds: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Returns one row per system: each figure's mean with its 95 % interval over clips, and how many clips that is.

    Args:
        rows: As `judge` returns them.
        systems: In the order of the table; one of which no clip could be judged has no figures and 0 clips.
        speeds: System to how many times faster than real time it draws.
    """
    names = [name for name in METRICS if any(name in row for row in rows)]
    summary = []
    for system in systems:
        own = [row for row in rows if row["system"] == system]
        values = {name: [math.nan if row[name] is None else row[name] for row in own] for name in names}
        speed = {} if speeds is None else {"x real time": speeds.get(system, math.nan)}
        figures = {name: mean_interval(value) for name, value in values.items()}
        summary.append({"system": system, **figures, **speed, "clips": len(own)})
    return summary


def _judge_clip(
    clip: str, sounds: dict[str, Tensor], sample_rate: int, voicing: bool, align: bool
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], list[dict[str, str]]]:
    """Returns the rows, pitch tracks and what was left out of one clip."""
    (recording, reference), rows, tracks, left_out = next(iter(sounds.items())), [], {}, []
    if fault := _fault(reference):
        return [], {}, [{"clip": clip, "system": "all", "why": f"the {recording} {fault}"}]

    @functools.cache  # most systems are held against the same piece of the recording
    def wanted(start: int, length: int) -> dict[str, np.ndarray]:
        return _tracks(reference[start : start + length], sample_rate, voicing)

    for system, audio in sounds.items():
        if fault := _fault(audio):
            left_out.append({"clip": clip, "system": system, "why": fault})
            continue
        lag = alignment.estimate_lag(audio, reference, sample_rate) if align else 0
        if min(len(audio), len(reference)) - abs(lag) < SHORTEST:
            lag = 0  # too little would be left to judge
        generated, piece = alignment.align(audio, reference, lag)
        reference_tracks = wanted(max(-lag, 0), len(piece))
        own_tracks = reference_tracks if system == recording else _tracks(generated, sample_rate, voicing)
        row = _figures(generated, piece, sample_rate) | _pitch_figures(own_tracks, reference_tracks)
        rows.append({"clip": clip, "system": system, **row} | ({"lag ms": 1000.0 * lag / sample_rate} if align else {}))
        if voicing:
            tracks[system] = own_tracks["pYIN"]
    return rows, tracks, left_out


def _fault(audio: Tensor) -> str | None:
    """Says why a sound can't be judged."""
    if len(audio) < SHORTEST:
        return f"has {len(audio)} samples: at least {SHORTEST} are needed"
    if not bool(torch.isfinite(audio).all()):
        return "holds NaN or infinity"
    return "is silent" if audio.abs().max() < SILENT else None


def _figures(generated: Tensor, reference: Tensor, sample_rate: int) -> dict[str, float | None]:
    """Returns the figures of one sound but for those of its pitch, None where a library is missing."""
    full, narrow = metrics.judging_mel(sample_rate), metrics.judging_mel(sample_rate, 8000.0)
    return {
        "level dB": metrics.level_db(generated, reference),
        "M-STFT": metrics.m_stft(generated, reference, sample_rate),
        "M-STFT 8k": metrics.m_stft(generated, reference, sample_rate, f_max=8000.0),
        "LSD dB": metrics.log_spectral_distance(generated, reference),
        "mel L1": metrics.mel_l1(generated, reference, full),
        "mel L1 8k": metrics.mel_l1(generated, reference, narrow),
        "ESTOI": _if_there(perception.estoi, generated, reference, sample_rate),
        "PESQ": _if_there(perception.pesq_wb, generated, reference, sample_rate),
    }


def _tracks(audio: Tensor, sample_rate: int, voicing: bool) -> dict[str, np.ndarray | None]:
    """Returns tracker to track."""
    tracks = {"DIO": _if_there(pitch.dio_track, audio, sample_rate)}
    return tracks | ({"pYIN": pitch.pyin_track(audio, sample_rate)} if voicing else {})


def _pitch_figures(found: dict[str, np.ndarray | None], wanted: dict[str, np.ndarray | None]) -> dict[str, float | None]:
    figures = {"DIO F1": None if wanted["DIO"] is None else pitch.voicing_f1(found["DIO"], wanted["DIO"])}
    if "pYIN" in wanted:
        tracks = found["pYIN"], wanted["pYIN"]
        figures["voicing F1"] = pitch.voicing_f1(*tracks)
        figures["F0 cents"] = pitch.f0_rmse_cents(*tracks)
        figures["F0 gross %"] = 100.0 * pitch.gross_error_share(*tracks)
    return figures


def _if_there(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls what needs a library; None if that is missing."""
    try:
        return function(*arguments)
    except MissingLibraryError:
        return None
