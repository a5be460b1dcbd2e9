"""Puts reports together: on models and held-out clips, and on folders of sounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from wavflow.evaluation.comparison import METRICS, RECORDING, SILENT, Evaluation, Metric, Progress, compare, summarize
from wavflow.evaluation.folders import read_folders
from wavflow.evaluation.report.charts import Scatter
from wavflow.evaluation.report.folder import Report
from wavflow.evaluation.report.listening import write_listening_test
from wavflow.evaluation.systems import ENVELOPE, PULSES, WHITENING, WORLD, Clip, divergences, likelihoods, render
from wavflow.vocoder import PASSES, Vocoder

QUALITY = "M-STFT"  # what the comparison plots show: needs no library and tells trained from untrained
MOST = 8  # sounds on a screen of a listening test, beside its low anchor
SHOWN = 20  # clips that a page plays: each takes about a megabyte of it
LEGEND = METRICS | {
    "bits/sample": Metric("low", "code length of 16-bit audio"),
    "nats/sample": Metric("high", "log-likelihood on [-1, 1)"),
    "KL": Metric("low", "of the model from the teacher"),
}


def report_on_models(
    clips: Sequence[Clip],
    models: Mapping[str, Vocoder],
    paths: Mapping[str, Path],
    teacher: Vocoder | None = None,
    temperature: float = 1.0,
    voicing: bool = True,
    jobs: int | None = None,
    progress: Progress = lambda clips, task: clips,
    passes: int = PASSES,
) -> Report:
    """Renders, compares and scores held-out clips with every model and anchor; see `render`, `compare` and `likelihoods`.

    Args:
        clips: Held-out recordings, of one mel convention.
        models: Name to model; all of that convention.
        paths: Name to the file that the model came from.
        teacher: The model to which the KL of those that sample in parallel is measured; None for no KL.
        temperature: Of the noise.
        voicing: Whether to track the pitch by pYIN.
        jobs: Processes; all processors if None.
        progress: Wraps what takes long, with its name.
        passes: Of the `MelEqualizer` that models and pulses go through.
    """
    renderings = render(clips, models, temperature, jobs, progress, passes)
    sounds = {clip.name: {name: rendering.audio[i] for name, rendering in renderings.items()} for i, clip in enumerate(clips)}
    first = next(iter(models.values()))
    paired = first.mel.n_mels > 0  # if not, a sample is no version of the recording
    evaluation = compare(sounds, first.sample_rate, voicing and paired, jobs=jobs, progress=progress)
    if not paired:
        rows = [{name: row[name] for name in ("clip", "system", "level dB")} for row in evaluation.rows]
        evaluation = evaluation._replace(rows=rows)
    rows, log_probs = likelihoods(clips, models)
    tables = {"Likelihood of the recordings": rows}
    if teacher is not None and (rows := divergences(clips, teacher, models)):
        tables["Divergence from the teacher, nats/sample"] = rows
    tables["What was trained"] = [_facts(name, model) for name, model in models.items()]
    summary = summarize(evaluation.rows, renderings, {name: rendering.speed for name, rendering in renderings.items()})
    logs = {name: path.parent / "logs" / "metrics.csv" for name, path in paths.items()}
    notes = [", ".join([f"{name}: {path}", *_in_words(models[name].info)]) for name, path in paths.items()]
    if WHITENING in renderings:
        filters = "the envelope and pitch of the mel" if paired else "the envelope that all audio is given"
        notes.append(f"{WHITENING}: noise through {filters}, which is an untrained student without pulses")
    if any(name.endswith(" passes") for name in renderings):
        notes.append(
            f"models are equalized to their mel in {passes} passes; 0 passes: the model's own sample, whose density is known"
        )
    if PULSES in renderings:
        notes.append(f"{PULSES}: a pulse for each period of the mel's pitch, and noise, through the same: an untrained student")
    longest = max(clip.audio.shape[-1] for clip in clips) / first.sample_rate
    notes.append(f"{len(clips)} test clips of at most {longest:.3g} s, temperature {temperature:g}, on {first.device.type}")
    return _report(
        sounds,
        first.sample_rate,
        evaluation,
        notes,
        [] if WORLD in renderings else [WORLD],
        title=" and ".join(models).capitalize() if len(models) < 3 else f"{len(models)} models",
        summary=summary,
        tables=tables,
        log_probs=log_probs,
        curves={name: path for name, path in logs.items() if path.is_file()},
        models=models,
        scatters=_scatters(summary, models),
        legend=LEGEND,
    )


def report_on_folders(
    reference: str | Path,
    generated: Mapping[str, str | Path],
    limit: int | None = None,
    voicing: bool = True,
    jobs: int | None = None,
    progress: Progress = lambda clips, task: clips,
) -> Report:
    """Compares folders of sounds with a folder of recordings; see `read_folders`. The lag of each sound is taken out."""
    sounds = read_folders(reference, generated, limit)
    evaluation = compare(sounds.clips, sounds.sample_rate, voicing, align=True, jobs=jobs, progress=progress)
    if not evaluation.rows:
        raise ValueError(f"`reference`: no clip of {reference} can be compared. The first: {evaluation.left_out[0]['why']}.")
    notes = [f"recordings: {reference}", *(f"{system}: {folder}" for system, folder in generated.items()), *sounds.notes]
    return _report(
        sounds.clips,
        sounds.sample_rate,
        evaluation._replace(left_out=sounds.left_out + evaluation.left_out),
        notes,
        title=f"{', '.join(generated)} beside the recordings",
        summary=summarize(evaluation.rows, [RECORDING, *generated]),
    )


def _report(
    sounds: Mapping[str, Mapping[str, Tensor]],
    sample_rate: int,
    evaluation: Evaluation,
    notes: list[str],
    missing: Sequence[str] = (),
    **contents: Any,
) -> Report:
    """A report that plays the first clips; its notes say so, and what was not computed."""
    if missing := [*evaluation.missing, *missing]:
        notes.append(f"not computed, because a library is missing: {', '.join(missing)} (pip install 'wavflow[eval]')")
    if len(sounds) > SHOWN:
        notes.append(f"the first {SHOWN} of {len(sounds)} clips can be heard here; the metrics are of all")
    return Report(
        sample_rate=sample_rate,
        clips=evaluation.rows,
        left_out=evaluation.left_out,
        notes=notes,
        sounds=dict(itertools.islice(sounds.items(), SHOWN)),
        pitch=evaluation.tracks,
        **contents,
    )


def write_listening_page(path: str | Path, report: Report) -> None:
    """Writes a listening test of a report's sounds: recording, anchors and models; ABX compares them in pairs.

    A clip in which a system is missing or silent is left out, as listeners compare all systems. So are the systems beyond the
    `MOST` that a screen takes, anchors first.

    Raises:
        ValueError: When no clip is left, or the models take no mel.
    """
    if any(not model.mel.n_mels for model in report.models.values()):
        raise ValueError("what a model samples without a mel is no version of a recording, to compare with it")
    systems = [row["system"] for row in report.summary if row["system"] != ENVELOPE]
    recording, models = systems[0], [name for name in systems if name in report.models] or systems[1:]
    models = models[: MOST - 1]
    anchors = [name for name in systems[1:] if name not in models and name not in report.models][: MOST - 1 - len(models)]
    chosen = [recording, *anchors, *models]
    clips = {}
    for clip, sounds in report.sounds.items():
        if all(name in sounds and sounds[name].isfinite().all() and sounds[name].abs().max() >= SILENT for name in chosen):
            length = min(len(sounds[name]) for name in chosen)
            clips[clip] = {name: sounds[name][:length] for name in chosen}
    pairs = [(recording, name) for name in models] + list(itertools.pairwise(models))
    write_listening_test(path, clips, report.sample_rate, pairs, report.title)


def _facts(name: str, model: Vocoder) -> dict[str, Any]:
    """What a model costs and cost; steps and minutes where its file tells them."""
    seconds = model.info.get("seconds")
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "receptive field, ms": 1000.0 * model.receptive_field / model.sample_rate,
        "steps": model.info.get("steps"),
        "minutes": seconds / 60 if seconds else None,
    }


def _in_words(info: Mapping[str, Any]) -> list[str]:
    """What a model's file tells of its training: steps and minutes first, whatever else was noted after them."""
    words = [f"{info['steps']:,} steps"] if info.get("steps") else []
    words += [f"{info['seconds'] / 60:.3g} min"] if info.get("seconds") else []
    others = {name: value for name, value in info.items() if name not in ("steps", "seconds", "stage", "split")}
    return words + [f"{len(v)} {name}" if isinstance(v, list) else f"{name}: {v}" for name, v in others.items()]


def _scatters(summary: Sequence[Mapping[str, Any]], models: Mapping[str, Vocoder]) -> list[Scatter]:
    """Quality against speed for all systems, and against training time for the models that know theirs."""
    rows = {row["system"]: row for row in summary if row["system"] != ENVELOPE and QUALITY in row}
    quality = {name: row[QUALITY].mean for name, row in rows.items() if math.isfinite(row[QUALITY].mean)}
    speed = [(name, rows[name]["x real time"], mean) for name, mean in quality.items() if rows[name]["x real time"] > 0]
    trained = [
        (name, models[name].info["seconds"] / 60, mean)
        for name, mean in quality.items()
        if name in models and models[name].info.get("seconds")
    ]
    better = f"{QUALITY} ({METRICS[QUALITY].better} is better)"
    scatters = [
        Scatter("Quality against speed", "x real time", better, speed),
        Scatter("Quality against training time", "minutes of training", better, trained),
    ]
    return [scatter for scatter in scatters if scatter.points]
