"""Calls the commands as a user does, in this process: each process of their own would cost seconds of imports."""

import contextlib
import csv
import functools
import importlib
import io
import os
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import soundfile
import torch
from hydra import compose
from hydra._internal.hydra import Hydra

import wavflow.cli

# One thread, as in `make test`; the tiny mel of helpers.MEL; a net and a run of next to nothing.
AUDIO = ["sample_rate=8000", "n_fft=64", "hop_length=16", "win_length=64", "n_mels=8", "f_max=4000.0"]
TRAIN = [
    *(f"audio.{option}" for option in AUDIO),
    *("net.layers=2", "net.channels=4", "net.features=4", "data=folder"),
    *("data.segment_length=1024", "data.batch_size=2", "data.max_clip_seconds=0.25"),
    *("trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
]


class Outcome(NamedTuple):
    """What a command left behind: exit status and what it wrote."""

    status: int
    out: str
    err: str


@functools.cache
def defaults(config: str, groups: tuple[str, ...]) -> Any:
    """What `check_kinds` holds options against, composed once for all tests."""
    return compose(config, list(groups))


def call(command: str, *options: str | Path) -> Outcome:
    """Calls `python -m wavflow.<command> <options>`."""
    return outcome_of(importlib.import_module(f"wavflow.{command}").main, f"wavflow.{command}", *options)


def script(name: str, *options: str | Path) -> Outcome:
    """Calls `python scripts/<name>.py <options>`."""
    path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    return outcome_of(lambda: runpy.run_path(str(path), run_name="__main__"), path, *options)


def outcome_of(main: Callable[[], object], *words: str | Path) -> Outcome:
    """Calls a program with what was typed, its name first."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [*map(str, words)]),
        mock.patch.object(warnings, "formatwarning"),
        mock.patch.dict(os.environ),
        mock.patch.object(wavflow.cli, "compose", lambda config, groups: defaults(config, tuple(groups))),
        mock.patch.object(Hydra, "get_mode", return_value=None),  # else composes once more, in search of `hydra.mode=`
    ):
        torch.set_default_dtype(torch.float32)
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
            if isinstance(status, str):
                print(status, file=err)
                status = 1
        finally:
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)
    return Outcome(status, out.getvalue(), err.getvalue())


def succeeds(command: str, *options: str | Path) -> Outcome:
    """Calls a command that has to end well, and say so in its output."""
    outcome = call(command, *options)
    assert outcome.status == 0, outcome.err
    assert "wavflow: " not in outcome.err
    return outcome


def is_refused(folder: Path, command: str, *options: str | Path, words: str) -> None:
    """Calls a command that has to end in one line on stderr that holds `words`, and to leave `folder` as it was."""
    before = contents(folder)
    outcome = call(command, *options)
    assert outcome.status == 1, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("wavflow: ")
    for word in words.split("|"):
        assert word in outcome.err, outcome.err
    assert contents(folder) == before, "nothing may be left behind"


def curves(run: Path) -> list[dict[str, float]]:
    """What a run has logged, in order."""
    with (run / "logs" / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def contents(folder: Path) -> set[str]:
    """Returns all that is below a folder, as names."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def tone(seconds: float = 0.3, pitch: float = 200.0, sample_rate: int = 8000) -> np.ndarray:
    """A buzz with a little noise."""
    phase = 2 * np.pi * pitch * np.arange(round(seconds * sample_rate)) / sample_rate
    noise = np.random.default_rng(int(pitch)).standard_normal(len(phase))
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, 9)) + 0.01 * noise


def write_noise(path: Path, samples: int, sample_rate: int = 8000) -> Path:
    """Writes noise whose loudness changes, so that no two frames look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(samples)
    soundfile.write(path, rng.uniform(-0.5, 0.5, samples) * np.sin(np.arange(samples) / 500), sample_rate)
    return path


def make_sounds(folder: Path, seconds: tuple[float, ...] = (0.3, 0.2, 0.25, 0.35)) -> Path:
    """Fills a folder with wav files of such lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, length in enumerate(seconds):
        soundfile.write(folder / f"{i}.wav", tone(length, 150 + 25 * i), 8000)
    return folder
