"""Going on with a run, or beginning one where another was: its checkpoint, its curves, its folder."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

LEFT_BEHIND = (
    "model.safetensors",
    "config.yaml",
    "checkpoints/*.ckpt",
    "logs/metrics.csv",
    "logs/hparams.yaml",
    "logs/events.out.tfevents.*",
    "samples/step-*",
)
"""What a run leaves in its folder; nothing else in there is touched."""


def find_checkpoint(resume: str | None, folder: str | Path, task: nn.Module) -> Path | None:
    """Returns the checkpoint to go on from: none, the one named, or the last one of the run in `folder` (`auto`).

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is no whole checkpoint, or one of another net.
    """
    last = Path(folder) / "checkpoints" / "last.ckpt"
    if resume is None or (resume == "auto" and not last.exists()):
        return None
    path = last if resume == "auto" else Path(resume)
    if not path.is_file():
        raise FileNotFoundError(f"`resume`: there is no checkpoint {path}: name a .ckpt file, or auto.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        shapes = {name: tensor.shape for name, tensor in stored.items()}
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"`resume`: {path} is not a whole checkpoint of a wavflow run ({type(error).__name__}): name another one."
        ) from error
    ours = {name: tensor.shape for name, tensor in task.state_dict().items()}
    if shapes != ours:
        name = next(name for name in {**ours, **shapes} if ours.get(name) != shapes.get(name))
        raise ValueError(
            f"`resume`: {path} is of another net ({name} is {_shape(shapes.get(name))} there, {_shape(ours.get(name))} here): "
            "give the same options as for that run."
        )
    return path


def check_unused(folder: str | Path, overwrite: bool) -> None:
    """Sees to it that a new run does not mix with an old one in its folder: removes the old one if `overwrite` allows it.

    Raises:
        FileExistsError: When there is one and it may not be overwritten.
    """
    there = [path for pattern in LEFT_BEHIND for path in Path(folder).glob(pattern)]
    if there and not overwrite:
        raise FileExistsError(
            f"`output`: {folder} holds a run already: go on with it by resume=auto, name another folder, or say overwrite=true."
        )
    for path in there:
        path.unlink()


def keep_curves(logger: Any) -> None:
    """Lets a CSV logger go on with the table that is there: Lightning would delete it."""
    table = Path(logger.log_dir) / "metrics.csv"
    if table.is_file():
        earlier = table.read_bytes()
        writer = logger.experiment  # which deletes the table
        table.write_bytes(earlier)
        writer.metrics_keys = earlier.decode().splitlines()[0].split(",")


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(tuple(shape))
