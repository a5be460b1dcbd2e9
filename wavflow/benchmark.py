"""`python -m wavflow.benchmark`: what drawing, sampling, training and reading cost; see conf/benchmark.yaml."""

from __future__ import annotations

import json
import sys
from typing import Any

from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from wavflow.arguments import about
from wavflow.benchmarking.ceilings import Ceilings
from wavflow.benchmarking.measure import Sizes, jobs, with_random_weights
from wavflow.benchmarking.report import growth_picture, headline, machine, text_table
from wavflow.benchmarking.synthesis import growth
from wavflow.benchmarking.timing import Stopwatch, threads
from wavflow.cli import command, given, named, number, output_folder
from wavflow.devices import pick_device
from wavflow.files import atomic_write
from wavflow.models import build, load_model, released_models
from wavflow.reporting.tables import plain_rows
from wavflow.vocoder import Vocoder


@command("benchmark", lists=("part", "model", "lengths"))
def main(cfg: DictConfig) -> None:
    """Measures, writes benchmark.json and benchmark.png, and prints the tables."""
    device, count = pick_device(cfg.device), number("threads", cfg.threads, 1)
    stopwatch = Stopwatch(device, number("repeats", cfg.repeats, 1), number("budget", cfg.budget, 0.0), cfg.clock)
    if stopwatch.clock == "processor" and (device.type != "cpu" or count > 1):
        raise ValueError("`clock` processor needs device=cpu and threads=1: elsewhere it is not the time that it takes.")
    lengths = [number("lengths", length, 0.0) for length in values(cfg.lengths)]
    sizes = Sizes(number("seconds", cfg.seconds, 0.0), lengths, bool(cfg.compile))
    models = {name: model.to(device) for name, model in chosen(cfg).items()}
    data = instantiate(cfg.data, mel=next(iter(models.values())).mel)
    todo = jobs(values(cfg.part), models, data, sizes)
    folder, tables = output_folder(cfg.output, new=not given("output")), {}
    with threads(count):
        found = {"machine": machine(device), "settings": OmegaConf.to_container(cfg, resolve=True)}
        print("measuring the machine", file=sys.stderr)
        ceilings = Ceilings(stopwatch)
        for table, name, measure in todo:
            print(f"measuring {table}: {name}", file=sys.stderr)
            tables[table] = tables.get(table, []) + measure(ceilings)
    found["ceilings"] = {"operations/s": ceilings.operations, "copied bytes/s": ceilings.copying}
    if slopes := growth(tables.get("costs", [])):
        growth_picture(folder / "benchmark.png", tables["costs"], slopes)
        tables["growth"] = slopes
    with atomic_write(folder / "benchmark.json") as part:
        part.write_text(json.dumps(found | {name: plain_rows(rows) for name, rows in tables.items()}, indent=1))
    print(headline(found["machine"], found["ceilings"]))
    for name, rows in tables.items():
        if name != "costs":  # the growth is told, and drawn
            print(f"\n{name}\n{text_table(rows)}")
    print(f"\nAll figures: {folder / 'benchmark.json'}")


def chosen(cfg: DictConfig) -> dict[str, Vocoder]:
    """Loads the models that are files and builds those that are names of conf/net, with random weights."""
    names = [str(name) for name in values(cfg.model)]
    files = [name for name in names if name.endswith(".safetensors") or name in released_models()]
    audio, models = OmegaConf.to_container(cfg.audio, resolve=True), {}
    for name in [name for name in names if name not in files]:
        net = OmegaConf.to_container(compose("train", [f"net={name}", "output=."]).net, resolve=True)
        models[name] = with_random_weights(build(net | {"mel": audio}))
    with about("model", "path"):
        return models | {name: load_model(path) for name, path in named(files, "model", models).items()}


def values(option: Any) -> list[Any]:
    """Returns the values of an option that takes one or several."""
    return list(option) if OmegaConf.is_list(option) else [option]


if __name__ == "__main__":
    main()
