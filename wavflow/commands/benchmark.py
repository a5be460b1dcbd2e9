"""What `python -m wavflow.benchmark` does: how fast models sample and train and data are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from wavflow.arguments import about, choose
from wavflow.audio_density import check_pair
from wavflow.audio_files import counted
from wavflow.benchmarking.machine import machine
from wavflow.benchmarking.memory import synthesis_costs
from wavflow.benchmarking.synthesis import synthesis
from wavflow.benchmarking.timing import Meter, Row
from wavflow.cli import given, listed, named, number, output_folder
from wavflow.devices import pick_device
from wavflow.files import write_text
from wavflow.models import build, load_model, released_models, save_model
from wavflow.options import as_dict
from wavflow.reporting.tables import plain_rows, text_table
from wavflow.vocoder import Vocoder

PARTS = ["synthesis", "memory", "training", "data"]
Job = Callable[[Meter], list[Row]]


def run(cfg: DictConfig) -> None:
    """Measures, writes benchmark.json and prints the tables."""
    device = pick_device(cfg.device)
    meter = Meter(device, number("threads", cfg.threads, 1), number("budget", cfg.budget, 0.0), cfg.clock)
    models = {name: model.to(device) for name, model in chosen(cfg).items()}
    todo = jobs(cfg, models)
    folder, tables = output_folder(cfg.output, new=not given("output")), dict[str, list[Row]]()
    facts = machine(device, meter.threads)
    for table, name, measure in todo:
        print(f"measuring {table}: {name}", file=sys.stderr)
        tables.setdefault(table, []).extend(measure(meter))
    peaks = {str(dtype).removeprefix("torch."): peak for dtype, peak in meter.peaks.items()}
    measured = {table: plain_rows(rows) for table, rows in tables.items()}
    found = {"machine": facts, "settings": as_dict(cfg), "peak operations/s": peaks, **measured}
    write_text(folder / "benchmark.json", json.dumps(found, indent=1) + "\n")
    print(f"{facts['processor']}, {facts['device']}, {counted(facts['threads'], 'thread')}, torch {facts['torch']}")
    for table, rows in tables.items():
        print(f"\n{table}\n{text_table(rows)}", end="")
    print(f"\nAll of it: {folder / 'benchmark.json'}")


def jobs(cfg: DictConfig, models: Mapping[str, Vocoder]) -> list[tuple[str, str, Job]]:
    """Returns the measurements: table, name and the call that makes the rows. "all" leaves out what fits no model."""
    parts, found = listed(cfg.part) or ["all"], list[tuple[str, str, Job]]()
    for part in parts:
        choose("part", part, dict.fromkeys([*PARTS, "all"]))
    parts = PARTS if "all" in parts else parts
    seconds = number("seconds", cfg.seconds, 0.0)
    asked = cfg.lengths if OmegaConf.is_list(cfg.lengths) else [cfg.lengths]
    lengths = [number("lengths", length, 0.0) for length in asked]
    students = {name: model for name, model in models.items() if model.draws_in_parallel}
    if "synthesis" in parts:
        found += [("synthesis", name, partial(synthesis, name, model, seconds)) for name, model in models.items()]
    if "memory" in parts:
        if parts is not PARTS and not students:
            raise ValueError(f"`part` memory needs a model that samples in parallel: model=student; got {', '.join(models)}.")
        found += [("memory", name, partial(memory, name, model, lengths)) for name, model in students.items() if lengths]
    if "training" in parts:
        found += training_jobs(cfg, models, alone=parts is not PARTS)
    if "data" in parts:
        from wavflow.benchmarking.loading import loading

        data = instantiate(cfg.data, mel=next(iter(models.values())).mel)
        data.setup()  # a folder that is not there is to be told of before anything is measured
        found.append(("data", Path(data.path).name, partial(loading, data)))
    return found


def training_jobs(cfg: DictConfig, models: Mapping[str, Vocoder], alone: bool) -> list[tuple[str, str, Job]]:
    """Returns the measurements of models that train by likelihood, and of those that the first teacher can distil."""
    from wavflow.benchmarking.training import training  # Lightning takes seconds to import

    pairs: dict[str, Vocoder | None] = {name: None for name, model in models.items() if model.scores_in_parallel}
    teacher = next((model for model in models.values() if not model.draws_in_parallel), None)
    if teacher is not None:
        for name in [name for name in models if name not in pairs]:
            check_pair(models[name], teacher)
            pairs[name] = teacher
    if alone and not pairs:
        raise ValueError(f"`part` training needs a teacher too: model=student,teacher; got {', '.join(models)}.")
    size = number("data.batch_size", cfg.data.batch_size, 1), number("data.segment_length", cfg.data.segment_length, 1)
    return [("training", name, partial(training, name, models[name], *size, teacher)) for name, teacher in pairs.items()]


def memory(name: str, vocoder: Vocoder, lengths: Sequence[float], meter: Meter) -> list[Row]:
    """Returns the memory that sampling takes for each length."""
    with TemporaryDirectory() as folder:
        save_model(vocoder, path := Path(folder) / "model.safetensors")
        return [{"model": name} | row for row in synthesis_costs(path, sorted(lengths), str(meter.device))]


def chosen(cfg: DictConfig) -> dict[str, Vocoder]:
    """Loads the models that are files and builds those that are names of conf/net, with random weights."""
    names = [str(name) for name in listed(cfg.model)]
    files = [name for name in names if name.endswith(".safetensors") or name in released_models()]
    models = dict[str, Vocoder]()
    for name in [name for name in names if name not in files]:
        net = as_dict(compose("train", [f"net={name}", "output=."]).net)
        models[name] = with_random_weights(build(net | {"mel": as_dict(cfg.audio)}))
    with about("model", "path"):
        return models | {name: load_model(path) for name, path in named(files, "model", models).items()}


@torch.no_grad()
def with_random_weights(model: Vocoder) -> Vocoder:
    """Fills what starts at zero with small noise, so that no layer is trivial; in eval mode, without gradients."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(0.0, 0.01, generator=generator)
    return model.eval().requires_grad_(False)
