"""What is measured of which model: the parts of the benchmark, put together from the models that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wavflow.arguments import choose
from wavflow.benchmarking.ceilings import Ceilings
from wavflow.benchmarking.loading import loading
from wavflow.benchmarking.steps import sampling
from wavflow.benchmarking.synthesis import costs, memory, speed
from wavflow.benchmarking.training import training
from wavflow.data import AudioDataModule
from wavflow.vocoder import Vocoder, check_pair

PARTS = {
    "synthesis": "a model that draws in parallel: model=student",
    "sampling": "a model that draws sample by sample: model=teacher",
    "training": "a teacher, or a student and its teacher: model=student,teacher",
    "data": "a model, for its mel: model=teacher",
}
"""Name to what it needs."""


class Sizes(NamedTuple):
    """How much is drawn: seconds of audio, lengths in seconds for growth; and whether `torch.compile` is tried."""

    seconds: float
    lengths: Sequence[float]
    compile: bool


class Job(NamedTuple):
    """A table, what stands in its rows, and the call that makes them."""

    table: str
    name: str
    run: Callable[[Ceilings], list[dict[str, Any]]]


def jobs(parts: Sequence[str], models: Mapping[str, Vocoder], data: AudioDataModule, sizes: Sizes) -> list[Job]:
    """Returns the measurements of some parts; among "all" one that has no fitting model is left out.

    Raises:
        ValueError: When there is no such part or, by itself, no fitting model; or when a student does not fit its teacher.
    """
    found = []
    for part in parts:
        choose("part", part, PARTS | {"all": None})
    for part in PARTS if "all" in parts else parts:
        made = _jobs(part, models, data, sizes)
        if not made and "all" not in parts:
            raise ValueError(f"`part` {part} needs {PARTS[part]}, or files of such; got {', '.join(models)}.")
        found += made
    return found


def _jobs(part: str, models: Mapping[str, Vocoder], data: AudioDataModule, sizes: Sizes) -> list[Job]:
    teachers = {name: model for name, model in models.items() if not model.draws_in_parallel}
    drawing = {name: model for name, model in models.items() if model.draws_in_parallel}
    if part == "data":
        data.setup()  # a folder that is not there is to be told of before anything is measured
        return [Job("data", Path(data.path).name, partial(loading, data))]
    if part == "sampling":
        return [Job("sampling", n, partial(sampling, n, model, sizes.seconds)) for n, model in teachers.items()]
    if part == "synthesis":
        speeds = [Job("synthesis", n, partial(speed, n, m, sizes.seconds, sizes.compile)) for n, m in drawing.items()]
        grow = [Job("costs", n, partial(costs, n, m, sizes.lengths, sizes.compile)) for n, m in drawing.items()]
        memories = [Job("memory", n, partial(memory, n, m, sizes.lengths)) for n, m in drawing.items()]
        return speeds + (grow + memories if sizes.lengths else [])
    pairs: dict[str, Vocoder | None] = {name: None for name, model in models.items() if model.scores_in_parallel}
    for teacher in list(teachers.values())[:1]:
        for name in drawing.keys() - pairs.keys():
            check_pair(models[name], teacher)
            pairs[name] = teacher
    batch = data.batch_size, data.segment_length / data.mel.sample_rate, sizes.compile
    return [Job("training", n, partial(training, n, models[n], *batch, teacher)) for n, teacher in pairs.items()]


@torch.no_grad()
def with_random_weights(model: Vocoder, std: float = 0.01) -> Vocoder:
    """Fills what starts at zero with small noise, so that no layer is trivial; in eval mode, without gradients."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(0.0, std, generator=generator)
    return model.eval().requires_grad_(False)
