"""What the commands share: errors as one line, and where models are found."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a command with one clear line and status 1 where a user's input is at fault.

    Set WAVFLOW_TRACEBACK=1 to see where an error came from. Errors that we did not foresee keep their traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
            if os.environ.get("WAVFLOW_TRACEBACK"):
                traceback.print_exc()
            cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
            print(f"wavflow: {' '.join(str(cause).split())}", file=sys.stderr)
            raise SystemExit(1) from None

    return run


def quiet() -> None:
    """Leaves warnings to what a user can act on: not Lightning's advertisements and not its own deprecations."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        r"`isinstance\(treespec, LeafSpec\)`",
        "The '.*_dataloader' does not have many workers",
        "Checkpoint directory",
    ):
        warnings.filterwarnings("ignore", message=message)


def pick_device(name: str) -> torch.device:
    """Returns the device of a name; `auto` is a GPU where there is one.

    Raises:
        ValueError: When torch knows no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` {name!r} can't be used here ({str(error).splitlines()[0]}): try cpu.") from error
    return torch.device(name)


def pick_precision(name: str) -> str:
    """Returns Lightning's name of a precision; `auto` is bf16-mixed where the GPU or the processor is made for it."""
    if name != "auto":
        return name
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if fast else "32-true"


def newest_model(stage: str, runs: str | Path = "runs") -> Path:
    """Returns the model file of the newest run of a stage.

    Raises:
        FileNotFoundError: When there is none, with the command that makes one.
    """
    models = sorted(Path(runs).glob(f"{stage}/*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise FileNotFoundError(
            f"`{stage}`: no model was named and there is none in {runs}/{stage}: "
            f"train one with `python -m wavflow.train stage={stage}`, or name one with {stage}=<model.safetensors>."
        )
    return models[-1]
