"""Drawing whole clips in parallel: speed by engine, the first audio, and how both time and memory grow with the length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavflow.benchmarking.ceilings import Ceilings
from wavflow.benchmarking.floors import operations_per_sample
from wavflow.benchmarking.forms import Form, forms
from wavflow.benchmarking.resources import synthesis_costs
from wavflow.models import save_model
from wavflow.synthesis.parallel import ParallelEngine, dtypes
from wavflow.vocoder import PASSES, Vocoder

Row = dict[str, Any]


class Engine(NamedTuple):
    """A way to draw: maps mel and noise to pieces of audio, one after the other; all at once is one piece.

    `stream` does the same in the smallest pieces, where it can: the first of them is the first audio.
    """

    draw: Callable[[Tensor, Tensor], Iterable[Tensor]]
    dtype: str
    stream: Callable[[Tensor, Tensor], Iterable[Tensor]] | None = None
    passes: int = 0  # of the equalizer


def engines(vocoder: Vocoder, compile: bool = False) -> dict[str, Engine]:
    """Returns what can draw from a vocoder here. To add an engine, add an entry."""
    found = {name: Engine(in_one_pass(vocoder, form), form.dtype) for name, form in forms(vocoder, compile).items()}
    found["eager in segments, float32"] = Engine(lambda mel, z: [vocoder.sample(mel, z, passes=0, fast=False)], "float32")
    if isinstance(vocoder.engine(), ParallelEngine):
        for dtype in dtypes():
            name = str(dtype).removeprefix("torch.")
            found[f"compiled engine, {name}"] = Engine(
                lambda mel, z, d=dtype: [vocoder.sample(mel, z, passes=0, dtype=d)], name
            )
            for passes in range(PASSES + 1 if vocoder.mel.n_mels else 1):
                draw = partial(vocoder.stream, passes=passes, dtype=dtype)
                label = f"... streamed, {name}" + (f", {passes} passes" if passes else "")
                found[label] = Engine(draw, name, partial(draw, chunk_frames=1), passes)
    if vocoder.mel.n_mels:
        equalize = partial(vocoder.equalizer, passes=PASSES)
        found[f"equalizer alone, {PASSES} passes"] = Engine(lambda mel, z: [equalize(0.1 * z, mel)], "float32", None, PASSES)
    return found


def in_one_pass(vocoder: Vocoder, form: Form) -> Callable[[Tensor, Tensor], Iterable[Tensor]]:
    """Returns the draw of a whole clip by one form of the net."""
    changed = form.change(vocoder)

    @torch.no_grad()
    def draw(mel: Tensor, noise: Tensor) -> Iterable[Tensor]:
        with form.autocast(mel.device):
            return [changed.unwhiten(changed.draw(mel, noise).u, mel)[0]]

    return draw


def speed(name: str, vocoder: Vocoder, seconds: float, compile: bool, ceilings: Ceilings) -> list[Row]:
    """Draws a clip by each engine; one row for each."""
    rows, stopwatch = [], ceilings.stopwatch
    for engine_name, engine in engines(vocoder, compile).items():
        mel, noise = inputs(vocoder, seconds)
        timing = stopwatch(lambda e=engine, x=(mel, noise): list(e.draw(*x)))
        first = stopwatch(lambda e=engine, x=(mel, noise): next(iter(e.stream(*x)))) if engine.stream else timing
        made, samples = noise.shape[-1] / vocoder.sample_rate, noise.shape[-1]
        moved = 4.0 * (mel.numel() + 2 * noise.numel() + sum(p.numel() for p in vocoder.flow.parameters()))
        floor = ceilings.floor(samples * operations_per_sample(vocoder), moved, engine.dtype)
        look_ahead = 2 * vocoder.hop_length + vocoder.equalizer.look_ahead(engine.passes)  # a student sees two frames ahead
        rows.append(
            {
                "model": name,
                "engine": engine_name,
                "seconds of audio": made,
                "x real time": made / timing.median,
                "samples/s": samples / timing.median,
                "first audio ms": 1000.0 * first.median,
                **({"look-ahead ms": 1000.0 * look_ahead / vocoder.sample_rate} if engine.stream else {}),
                **({} if engine.passes else {"floor s": floor, "share of floor": floor / timing.median}),
                **timing.row,
            }
        )
    return rows


def costs(name: str, vocoder: Vocoder, lengths: Sequence[float], compile: bool, ceilings: Ceilings) -> list[Row]:
    """Draws clips of so many seconds by each engine, the shortest first, until a draw takes more than the budget.

    What streams is left out: piece after piece takes the same time.
    """
    rows, stopwatch = [], ceilings.stopwatch
    for engine_name, engine in engines(vocoder, compile).items():
        if engine.stream or engine.passes:
            continue
        for i, length in enumerate(sorted(lengths)):
            mel, noise = inputs(vocoder, length)
            timing = stopwatch(lambda e=engine, x=(mel, noise): list(e.draw(*x)), warm_up=i == 0)
            row = {"model": name, "engine": engine_name, "seconds of audio": noise.shape[-1] / vocoder.sample_rate}
            rows.append(row | timing.row)
            if timing.median > stopwatch.budget:
                break
    return rows


def growth(rows: Sequence[Row]) -> list[Row]:
    """Returns, for each engine, the power of the length that its `costs` grow with: 1 is linear."""
    found = []
    for key in dict.fromkeys((row["model"], row["engine"]) for row in rows):
        points = [(row["seconds of audio"], row["median s"]) for row in rows if (row["model"], row["engine"]) == key]
        if len({length for length, _ in points}) > 1:
            slope = np.polyfit(*np.log(points).T, 1)[0]
            found.append(
                {"model": key[0], "engine": key[1], "lengths": len(points), "time grows as length to the": float(slope)}
            )
    return found


def memory(name: str, vocoder: Vocoder, lengths: Sequence[float], ceilings: Ceilings) -> list[Row]:
    """Returns the memory of `vocoder.sample` for each length, each in a process of its own."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(vocoder, path)
        rows = synthesis_costs(path, sorted(lengths), str(ceilings.stopwatch.device))
    shown = ("seconds of audio", "MiB above idle", "MiB in all")  # its time is of one draw, with no warm-up
    return [{"model": name} | {column: row[column] for column in shown} for row in rows]


def inputs(vocoder: Vocoder, seconds: float, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Returns a mel (B, n_mels, F) of about the level of speech, and noise (B, F * hop_length), of a length in whole frames."""
    frames = max(1, round(seconds * vocoder.sample_rate / vocoder.hop_length))
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(batch, vocoder.mel.n_mels, frames, generator=generator, dtype=torch.float32).sub(6.0).to(vocoder.device)
    return mel, vocoder.noise(mel, generator)
