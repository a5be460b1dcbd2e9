"""The report folder: one page to look and listen, the same tables as Markdown, JSON and CSV, and the sounds as wav files."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wavflow.evaluation.comparison import METRICS, Metric
from wavflow.evaluation.report.charts import Scatter
from wavflow.evaluation.report.page import render_page
from wavflow.files import write_text
from wavflow.reporting.tables import Row, csv_table, markdown_table, plain_rows
from wavflow.vocoder import Vocoder
from wavflow.writing import write_audio


@dataclass
class Report:
    """The results of some systems on some clips; all fields but the first two may be left out.

    A row is a mapping from column to number, text or `Interval`, see `markdown_table`; its first column names it.

    Args:
        title: Heading of the page.
        sample_rate: Of all sounds, in Hz.
        summary: One row per system: recording, anchors, teacher, student.
        tables: Further tables: heading to rows; a column "bits/sample" is also drawn.
        clips: One row per clip and system, in the columns "clip", "system" and the metrics.
        left_out: What could not be compared: rows of "clip", "system" and "why".
        notes: One sentence each: what was measured, on what, with which command.
        links: Other pages to name at the top: title to address, relative to the report.
        sounds: Clip to system to audio (T,) in [-1, 1); the first system is the recording, with which others are compared.
        log_probs: Clip to model to log-density of the recording, (T,), nats per sample.
        pitch: Clip to system to F0 in Hz (nan where unvoiced), as `pyin_track` returns it.
        curves: Run to its `metrics.csv`.
        models: Name to model, whose configuration is shown.
        scatters: Comparisons of runs.
        legend: Column to what it means and which way is better.
    """

    title: str
    sample_rate: int
    summary: Sequence[Row] = ()
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    clips: Sequence[Row] = ()
    left_out: Sequence[Row] = ()
    notes: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    sounds: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    log_probs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    pitch: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    curves: Mapping[str, str | Path] = field(default_factory=dict)
    models: Mapping[str, Vocoder] = field(default_factory=dict)
    scatters: Sequence[Scatter] = ()
    legend: Mapping[str, Metric] = field(default_factory=lambda: METRICS)


def write_report(folder: str | Path, report: Report) -> None:
    """Writes `report.html`, `report.md`, `figures.json`, `summary.csv`, `clips.csv` and `clips/<clip>-<system>.wav`.

    The page holds all that it shows and plays, so it may be sent and opened by itself. Sounds that are empty or not finite
    can't be played and are skipped, and with its recording a clip; `left_out` should say why. Sounds that an earlier report
    in the folder listed and this one does not hold are removed; other files there stay.

    Raises:
        ValueError: If a sound is no clip (T,) of floats.
        FileNotFoundError: If a file of `curves` is missing.
    """
    folder, report = Path(folder), replace(report, sounds=_playable(report.sounds))
    wavs, old = _file_names(report.sounds), _listed(folder / "figures.json")
    for clip, systems in report.sounds.items():
        for system, audio in systems.items():
            write_audio(folder / wavs[clip][system], audio, report.sample_rate)
    files = {
        "report.html": render_page(report),
        "report.md": _markdown(report, wavs),
        "figures.json": json.dumps(_plain(report) | {"sounds": wavs}, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "summary.csv": csv_table(report.summary),
        "clips.csv": csv_table(report.clips),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    for path in old.difference(*(row.values() for row in wavs.values())):
        (folder / path).unlink(missing_ok=True)


def _playable(sounds: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    clips = {}
    for clip, systems in sounds.items():
        kept = {system: audio for system, audio in systems.items() if audio.numel() and audio.isfinite().all()}
        if kept and next(iter(systems)) in kept:
            clips[clip] = kept
    return clips


def _file_names(sounds: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Clip to system to `clips/<clip>-<system>.wav`: letters, digits, dots and dashes alone, and no name twice."""
    names, taken = dict[str, dict[str, str]](), set[str]()
    for clip, systems in sounds.items():
        names[clip] = {}
        for system in systems:
            stem = re.sub(r"[^\w.-]+", "-", f"{clip}-{system}").strip(".-")
            stem = name = stem.encode()[:150].decode(errors="ignore") or "clip"
            number = 1
            while name.lower() in taken:
                number += 1
                name = f"{stem}-{number}"
            taken.add(name.lower())
            names[clip][system] = f"clips/{name}.wav"
    return names


def _listed(path: Path) -> set[str]:
    """The sounds that an earlier report's `figures.json` lists, and no other file whatever it says."""
    try:
        sounds = json.loads(path.read_text(encoding="utf-8"))["sounds"]
        paths = {path for row in sounds.values() for path in row.values()}
        return {path for path in paths if re.fullmatch(r"clips/[\w-][\w.-]*\.wav", path)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()  # there is none, or it was written by another program or an older version


def _plain(report: Report) -> dict[str, Any]:
    return {
        "title": report.title,
        "sample_rate": report.sample_rate,
        "summary": plain_rows(report.summary),
        "tables": {heading: plain_rows(rows) for heading, rows in report.tables.items()},
        "clips": plain_rows(report.clips),
        "left_out": plain_rows(report.left_out),
        "models": {name: model.config for name, model in report.models.items()},
        "notes": list(report.notes),
    }


def _markdown(report: Report, wavs: Mapping[str, Mapping[str, str]]) -> str:
    blocks = [f"# {report.title}", markdown_table(report.summary)]
    for heading, rows in report.tables.items():
        blocks += [f"## {heading}", markdown_table(rows)]
    if report.left_out:
        blocks += ["## Left out", markdown_table(report.left_out)]
    blocks.append("\n".join(f"- {note}" for note in report.notes))
    if wavs:
        lines = [f"- {clip}: " + ", ".join(f"[{name}]({path})" for name, path in row.items()) for clip, row in wavs.items()]
        blocks += ["## Listen", "[All at once](report.html), or one by one:", "\n".join(lines)]
    if report.clips:
        blocks += ["## Clip by clip", markdown_table(report.clips)]
    return "\n\n".join(block.strip() for block in blocks if block) + "\n"
