"""`python -m wavflow.density`: trains a flow of vectors on shapes, digits or tables, and judges it; see conf/density.yaml."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from wavflow.cli import command, given, number, output_folder
from wavflow.files import atomic_write
from wavflow.options import as_dict
from wavflow.reporting.tables import csv_table, markdown_table, plain_rows
from wavflow.tabular import bench, densities, pictures
from wavflow.tabular.tables import Data

EXAMPLES = 8  # rows that the Jacobian's pattern is a mean of


@command("density")
def main(cfg: DictConfig) -> None:
    """Trains, judges, writes the results and prints their table."""
    if cfg.peer not in (None, "zuko"):
        raise ValueError(f"`peer` must be zuko or null, got {cfg.peer!r}.")
    seed, noise, flow = number("seed", cfg.seed, 0), number("noise", cfg.noise, 0.0), as_dict(cfg.flow)
    options = {name: number(f"fit.{name}", cfg.fit[name], 1) for name in ("epochs", "batch_size", "patience")}
    options = {**cfg.fit, **options}
    data = instantiate(cfg.data)
    densities.density(flow, len(data.columns), data.levels)  # refuses what can't be built before anything is trained or made
    if cfg.peer:
        densities.peer(flow, len(data.columns), data.levels)
    # already here: minutes of work must not end in a folder that can't be written
    folder = output_folder(cfg.output, new=not given("output"))
    kinds = [False] + [True] * (cfg.peer is not None)
    fits = [bench.fit_all(data, flow, options, seed, noise, of_zuko, progress) for of_zuko in kinds]
    table = bench.rows(data, fits)
    write(folder, table, fits, as_dict(cfg))
    config = {"flow": flow, "features": len(data.columns), "levels": data.levels}
    densities.save(fits[0].models[0], folder / "model.safetensors", config)
    draw_pictures(folder, data, fits)
    print((folder / "results.md").read_text())


def write(folder: Path, table: list[dict[str, Any]], fits: list[bench.Fitted], config: dict[str, Any]) -> None:
    """Writes the table as Markdown, CSV and JSON, this last with each fold and the configuration."""
    for fit in fits:
        for i, history in enumerate(fit.histories):
            if history.ended.startswith("loss"):
                print(
                    f"wavflow: warning: {fit.name}, fold {i + 1}: {history.ended}: stopped; the best was kept", file=sys.stderr
                )
    trainings = {
        fit.name: [
            {"test": log_prob.mean().item(), "worst": log_prob.min().item(), **history._asdict()}
            for log_prob, history in zip(fit.log_probs, fit.histories, strict=True)
        ]
        for fit in fits
    }
    results = {"table": plain_rows(table), "folds": trainings, "config": config, "torch": torch.__version__}
    texts = {
        "results.md": markdown_table(table),
        "results.csv": csv_table(table),
        "results.json": json.dumps(results, indent=1),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as part:
            part.write_text(text)


def draw_pictures(folder: Path, data: Data, fits: list[bench.Fitted]) -> None:
    """Draws pictures of the first fold's models."""
    model, test = fits[0].models[0], data.folds[0].test.to(torch.get_default_dtype())
    if data.shape:
        pictures.density_picture(folder / "density.png", model, data.shape, test)
        pictures.layers_picture(folder / "layers.png", model)
    else:
        pictures.samples_picture(folder / "samples.png", model, test, data.columns, data.levels)
    pictures.jacobian_picture(folder / "jacobian.png", model, test[:EXAMPLES, :, None])
    pictures.curve_picture(folder / "training.png", {fit.name: fit.histories[0] for fit in fits})


def progress(epochs: Iterable[int], name: str) -> Iterable[int]:
    """Shows a bar of epochs."""
    return tqdm(epochs, desc=name, unit="epoch", leave=False)


if __name__ == "__main__":
    main()
