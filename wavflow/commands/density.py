"""What `python -m wavflow.density` does: trains a flow of vectors on shapes, digits or tables, and judges it."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from wavflow.cli import given, number, output_folder
from wavflow.files import write_text
from wavflow.options import as_dict
from wavflow.reporting.tables import csv_table, markdown_table, plain_rows
from wavflow.tabular import bench, densities, pictures
from wavflow.tabular.tables import Data

EXAMPLES = 8  # rows that the Jacobian's pattern is a mean of


def run(cfg: DictConfig) -> None:
    """Trains, judges, writes the results and prints their table."""
    seed, noise, flow = number("seed", cfg.seed, 0), number("noise", cfg.noise, 0.0), as_dict(cfg.flow)
    options = {name: number(f"fit.{name}", cfg.fit[name], 1) for name in ("epochs", "batch_size", "patience")}
    if cfg.fit.max_seconds is not None:
        options["max_seconds"] = number("fit.max_seconds", cfg.fit.max_seconds, 0.0, above=True)
    options = {**cfg.fit, **options}
    data = instantiate(cfg.data)
    densities.density(flow, len(data.columns), data.levels)  # refuses what can't be built before anything is trained or made
    # already here: minutes of work must not end in a folder that can't be written
    folder = output_folder(cfg.output, new=not given("output"))
    fitted = bench.fit_all(data, flow, options, seed, noise, partial(tqdm, unit="epoch", leave=False))
    write(folder, bench.rows(data, fitted), fitted, as_dict(cfg))
    config = {"flow": flow, "features": len(data.columns), "levels": data.levels}
    densities.save(fitted.models[0], folder / "model.safetensors", config)
    draw_pictures(folder, data, fitted)
    print((folder / "results.md").read_text())


def write(folder: Path, table: list[dict[str, Any]], fitted: bench.Fitted, config: dict[str, Any]) -> None:
    """Writes the table as Markdown, CSV and JSON, this last with each fold and the configuration."""
    for i, history in enumerate(fitted.histories):
        if history.ended.startswith("loss"):
            print(f"wavflow: warning: fold {i + 1}: {history.ended}: stopped; the best was kept", file=sys.stderr)
    trainings = [
        {"test": log_prob.mean().item(), "worst": log_prob.min().item(), **history._asdict()}
        for log_prob, history in zip(fitted.log_probs, fitted.histories, strict=True)
    ]
    results = {"table": plain_rows(table), "folds": {fitted.name: trainings}, "config": config, "torch": torch.__version__}
    write_text(folder / "results.md", markdown_table(table))
    write_text(folder / "results.csv", csv_table(table))
    write_text(folder / "results.json", json.dumps(results, indent=1))


def draw_pictures(folder: Path, data: Data, fitted: bench.Fitted) -> None:
    """Draws pictures of the first fold's model."""
    model, test = fitted.models[0], data.folds[0].test.to(torch.get_default_dtype())
    if data.shape:
        pictures.density_picture(folder / "density.png", model, data.shape, test)
        pictures.layers_picture(folder / "layers.png", model)
    else:
        pictures.samples_picture(folder / "samples.png", model, test, data.columns, data.levels)
    pictures.jacobian_picture(folder / "jacobian.png", model, test[:EXAMPLES, :, None])
    pictures.curve_picture(folder / "training.png", fitted.histories[0])
