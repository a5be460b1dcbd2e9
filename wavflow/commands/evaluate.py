"""What `python -m wavflow.evaluate` does: metrics, report and listening test, of models or of folders."""

from __future__ import annotations

import html
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from wavflow.arguments import about
from wavflow.audio_density import check_pair
from wavflow.audio_files import counted
from wavflow.cli import listed, named, newest_model, number, output_folder
from wavflow.data import AudioDataModule, ClipDataset
from wavflow.data.split import read_split
from wavflow.devices import pick_device
from wavflow.evaluation.comparison import RECORDING
from wavflow.evaluation.report.contents import report_on_folders, report_on_models, write_listening_page
from wavflow.evaluation.report.folder import Report, write_report
from wavflow.evaluation.systems import NOT_MODELS, Clip
from wavflow.files import printable
from wavflow.models import load_model
from wavflow.reporting.tables import text_table
from wavflow.speakers import speaker_names
from wavflow.vocoder import Vocoder

progress = partial(tqdm, unit="clip")  # called with the clips and a description
LIKELIHOOD = {"bits/sample": "bits", "KL": "KL"}
BRIEF = {name: name for name in ("level dB", "M-STFT", "ESTOI", "PESQ", "voicing F1", "DIO F1", "x real time")} | LIKELIHOOD


def run(cfg: DictConfig) -> None:
    """Evaluates and writes the report folder."""
    if int(os.environ.get("RANK", "0")):
        return  # under torchrun the first process alone: the comparison has processes of its own (`jobs`)
    links = page_links(cfg.see_also, cfg.output)
    report = of_models(cfg) if cfg.generated is None and cfg.reference is None else of_folders(cfg)
    folder, listen, report.links = output_folder(cfg.output), "", links
    (folder / "listen.html").unlink(missing_ok=True)  # an earlier report's
    if cfg.listen:
        try:
            write_listening_page(folder / "listen.html", report)
            listen = f", {folder / 'listen.html'} to test yourself"
        except ValueError as error:  # the metrics are still useful
            report.notes = [*report.notes, f"no listening test: {error}"]
    write_report(folder, report)
    print(printable(overview(report, folder / "report.md")))
    print(f"Open {folder / 'report.html'} to see and hear it{listen}.")


def of_models(cfg: DictConfig) -> Report:
    """Reports on `model`, or on `teacher` and `student`, on held-out clips of `data`."""
    device, temperature = pick_device(cfg.device), number("temperature", cfg.temperature, 0.0)
    jobs = at_least_one(cfg, "jobs")
    passes = number("passes", cfg.passes, 0)
    number("seconds", cfg.seconds, 0.0, above=True)
    paths = {role: Path(cfg[role] or newest_model(role)) for role in ("teacher", "student") if cfg[role] or cfg.model is None}
    roles = list(paths)
    paths |= named(listed(cfg.model), "model", {*NOT_MODELS, *roles})
    models = {}
    for name, path in paths.items():
        with about(name if name in roles else "model", "path"):
            models[name] = load_model(path, device)
    check(models, paths, roles)
    data = instantiate(cfg.data, mel=next(iter(models.values())).mel)
    hold_out(data, models, paths)
    clips = test_clips(cfg, data, device, check_speakers(models, paths))
    output_folder(cfg.output)  # made and locked before hours of work
    print(f"sampling {counted(len(clips), 'clip')}; models that sample step by step take the longest", file=sys.stderr)
    teacher = models["teacher"] if "teacher" in roles else None
    return report_on_models(clips, models, paths, teacher, temperature, cfg.voicing, jobs, progress, passes)


def of_folders(cfg: DictConfig) -> Report:
    """Reports on folders of sounds."""
    if cfg.reference is None or cfg.generated is None:
        raise ValueError("`reference` and `generated` are needed both, to compare folders: a folder of recordings, and others.")
    limit, jobs = at_least_one(cfg, "clips"), at_least_one(cfg, "jobs")
    folders = named(listed(cfg.generated), "generated", {RECORDING})
    return report_on_folders(cfg.reference, folders, limit, cfg.voicing, jobs, progress)


def check(models: dict[str, Vocoder], paths: dict[str, Path], roles: Iterable[str]) -> None:
    """Raises ValueError where models can't stand in one table, or one does not fit the role it was given."""
    for role in roles:
        if models[role].draws_in_parallel != (role == "student"):
            raise ValueError(f"`{role}`: {paths[role]} is no {role}: name a model of stage={role}, or give it as model=.")
    if {"teacher", "student"} <= set(roles):
        check_pair(models["student"], models["teacher"])
    check_alike({name: str(model.mel.spec) for name, model in models.items()}, paths, "was trained on another mel", "one mel")


def check_speakers(models: dict[str, Vocoder], paths: dict[str, Path]) -> list[str]:
    """Returns the names of the speakers of the models that take any; raises ValueError where these differ."""
    known = {name: speaker_names(model) for name, model in models.items() if model.speakers is not None}
    check_alike({name: ", ".join(names) for name, names in known.items()}, paths, "knows other speakers", "the same speakers")
    return next(iter(known.values()), [])


def check_alike(values: dict[str, str], paths: dict[str, Path], differs: str, alike: str) -> None:
    """Raises ValueError where models, by name, have different values."""
    first = next(iter(values), "")
    for name, value in values.items():
        if value != values[first]:
            raise ValueError(
                f"`model`: {paths[name]} {differs} ({value}) than {paths[first]} ({values[first]}): compare models of {alike}."
            )


def overview(report: Report, path: Path) -> str:
    """Returns what a terminal is shown, in lines of at most 100 characters: the means of the main metrics, and the notes."""
    rows: dict[str, dict[str, Any]] = {}
    for table, columns in [(report.summary, BRIEF), *((table, LIKELIHOOD) for table in report.tables.values())]:
        for row in table:
            if metrics := {column: row[column] for column in columns if column in row}:
                name = str(next(iter(row.values())))
                rows.setdefault(name, {"system": name}).update(metrics)
    headings = {name: short for name, short in BRIEF.items() if any(name in row for row in rows.values())}
    left_out = [f"{counted(len(report.left_out), 'sound')} left out: {path} says which and why"] if report.left_out else []
    lines = [f"- {note}" for note in (*report.notes, *left_out)]
    what = f"Means over clips; their intervals, and all other metrics: {path}"
    wrapped = (textwrap.fill(line, 100, subsequent_indent="  ", break_on_hyphens=False) for line in (what, *lines))
    return "\n".join([report.title, "", text_table(list(rows.values()), {"system": "system"} | headings), *wrapped])


def page_links(page: str | None, folder: str | Path) -> dict[str, str]:
    """Returns the title of another report's page and its address relative to a folder; {} for None."""
    if page is None:
        return {}
    if not Path(page).is_file():
        raise ValueError(f"`see_also` must name the page of another report, but there is no file {page}: check the name.")
    title = re.search(r"<title>(.*?)</title>", Path(page).read_text(encoding="utf-8"), re.DOTALL)
    address = Path(os.path.relpath(page, folder)).as_posix()
    return {html.unescape(title[1]) if title else address: quote(address)}


def hold_out(data: AudioDataModule, models: dict[str, Vocoder], paths: dict[str, Path]) -> None:
    """Splits the data as it was for the models, and tests on what all of them held out; ValueError where that is nothing.

    A warning names the models of an earlier version, which kept no record.
    """
    held_out = {
        name: read_split(model.info["split"]).get("test", []) for name, model in models.items() if "split" in model.info
    }
    if held_out:
        first, *others = held_out.values()
        common = [name for name in first if all(name in other for other in others)]
        if not common:
            all_of = ", ".join(str(paths[name]) for name in held_out)
            raise ValueError(f"`model`: no clip was held out from the training of all of {all_of}: evaluate them one by one.")
        data.follow({"test": common})
    if silent := [str(paths[name]) for name, model in models.items() if "split" not in model.info and "steps" in model.info]:
        warnings.warn(
            f"{', '.join(silent)} does not tell which clips were held out from its training: some of those below may have been "
            "trained on. data.split=<split.json> names others.",
            stacklevel=2,
        )


def test_clips(cfg: DictConfig, data: AudioDataModule, device: torch.device, speakers: list[str]) -> list[Clip]:
    """Reads the first test clips of the data, with the place of each one's speaker among `speakers`."""
    files = data.files("test")[: at_least_one(cfg, "clips") or 8]
    if speakers:
        data.number_speakers(speakers)
    dataset = ClipDataset(files, data.mel, cfg.seconds, data.given, seed=cfg.seed, speakers=data.speaker_ids(files))
    clips = []
    for item in (dataset[i] for i in range(len(dataset))):
        speaker = torch.tensor([item["speaker"]], device=device) if "speaker" in item else None
        clips.append(Clip(item["name"], item["audio"][None].to(device), item["mel"][None].to(device), speaker))
    return clips


def at_least_one(cfg: DictConfig, name: str) -> int | None:
    """Returns an option that is null or a whole number of at least 1."""
    return None if cfg[name] is None else number(name, cfg[name], 1)
