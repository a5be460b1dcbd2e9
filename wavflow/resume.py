"""Goes on with a run, or begins one in the folder of another: the checkpoint, the curves, the files."""

from __future__ import annotations

import csv
import itertools
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from wavflow.files import atomic_write

LEFT_BEHIND = (
    "model.safetensors",
    "config.yaml",
    "split.json",
    "checkpoints/*.ckpt",
    "checkpoints/*.damaged",
    "logs/metrics.*",
    "logs/hparams.yaml",
    "logs/events.out.tfevents.*",
    "samples/step-*",
)
"""The files of a run; nothing else in its folder is touched."""


class Checkpoint(NamedTuple):
    """A file to go on from, and the number of steps that were done when it was saved."""

    path: Path
    step: int


def find_checkpoint(resume: str | None, folder: str | Path, task: nn.Module) -> Checkpoint | None:
    """Returns the checkpoint to go on from: none, the one named, or the last whole one of the run in `folder` (`auto`).

    Where the last one of a run is damaged, it is named in a warning and put aside, and the one before it is taken.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is no whole checkpoint, or one of another net.
    """
    if resume is None:
        return None
    saved = [Path(folder, "checkpoints", name) for name in ("last.ckpt", "previous.ckpt")]
    paths = [path for path in saved if path.is_file()] if resume == "auto" else [Path(resume)]
    for path, before in itertools.zip_longest(paths, paths[1:]):
        if not path.is_file():
            raise FileNotFoundError(f"`resume`: there is no checkpoint {path}: name a .ckpt file, or auto.")
        try:
            return Checkpoint(path, _check(path, task))
        except _Damaged as error:
            if before is None:
                raise
            path.rename(path.with_suffix(".damaged"))  # or it would take the place of the whole one before it
            warnings.warn(f"{error} The one before it is taken, {before}.", stacklevel=2)
    return None


class _Damaged(ValueError):
    pass


def _check(path: Path, task: nn.Module) -> int:
    """Returns the step of a checkpoint that is whole and fits."""
    path.open("rb").close()  # a file that may not be read is not damaged
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # compares each record with its checksum, which torch does not
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes = {name: tensor.shape for name, tensor in stored["state_dict"].items()}
        step = int(stored["global_step"])
    except (
        *(RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError, AttributeError),
        *(zipfile.BadZipFile, pickle.UnpicklingError),
    ) as error:
        raise _Damaged(
            f"`resume`: {path} is not a whole checkpoint of a wavflow run ({type(error).__name__}): name another one."
        ) from error
    ours = {name: tensor.shape for name, tensor in task.state_dict().items()}
    if shapes != ours:
        name = next(name for name in {**ours, **shapes} if ours.get(name) != shapes.get(name))
        raise ValueError(
            f"`resume`: {path} is of another net ({name} is {_shape(shapes.get(name))} there, {_shape(ours.get(name))} here): "
            "give the same options as for that run."
        )
    return step


def check_unused(folder: str | Path, overwrite: bool) -> None:
    """Removes an old run from the folder of a new one if `overwrite` allows it.

    A run that was stopped before its first step has neither model nor checkpoint, and is removed in any case.

    Raises:
        FileExistsError: When there is one and it may not be overwritten.
    """
    there = [path for pattern in LEFT_BEHIND for path in Path(folder).glob(pattern)]
    worth = [path.name for path in there if path.suffix in (".safetensors", ".ckpt", ".damaged")]
    if worth and not overwrite:
        raise FileExistsError(
            f"`output`: {folder} holds a run already ({', '.join(worth)}): go on with it by resume=auto if there is a "
            "checkpoint, name another folder, or say overwrite=true."
        )
    for path in there:
        path.unlink()


def keep_curves(logger: Any, step: int) -> None:
    """Makes a CSV logger go on with the table that is there, up to a step, where Lightning would delete it.

    Rows after the step are dropped, since these steps are trained once more; the rows after a run's last step stay.
    """
    table = Path(logger.log_dir) / "metrics.csv"
    kept = table.with_suffix(".kept")  # stays until the logger has begun, even if the process is killed meanwhile
    if table.is_file():
        os.replace(table, kept)
    if not kept.is_file():
        return
    writer = logger.experiment
    with kept.open(newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or ["step"])
        rows = [row for row in reader if None not in row.values() and row["step"].isdigit()]  # the last may be cut off
    rerun = any(int(row["step"]) >= step and row.get("train/loss") for row in rows)
    rows = [row for row in rows if int(row["step"]) < step or not rerun]
    with atomic_write(table) as part, part.open("w", newline="") as file:
        table_writer = csv.DictWriter(file, names)
        table_writer.writeheader()
        table_writer.writerows(rows)
    kept.unlink()
    writer.metrics_keys = names


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(tuple(shape))
