"""Pictures of a fitted density: heat maps and samples, a grid bent layer by layer, the Jacobian's pattern, training curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from wavflow.flows import Chain, Flow, Permutation, Reverse, Transform
from wavflow.reporting.pictures import write_figure
from wavflow.tabular.fitting import History, log_likelihoods
from wavflow.tabular.shapes import Shape

DPI, MAX_PANELS = 100, 12
PIXELS = 200  # of a side of a density
LINES, EXTENT = 25, 2.5  # of the grid on the noise: lines each way, and half its width


def density_picture(path: str | Path, model: Flow, shape: Shape, test: Tensor) -> None:
    """Draws a density in the plane beside the true one, in one range of colors, and samples beside true ones (N, 2)."""
    axis = (torch.arange(PIXELS) + 0.5) / PIXELS * 2 * shape.extent - shape.extent
    grid = torch.cartesian_prod(axis, axis)
    maps = {"the truth": shape.log_prob(grid).exp(), "the flow": log_likelihoods(model, grid[..., None]).exp()}
    top = maps["the truth"].quantile(0.999).item()
    figure, axes = _panels(4, columns=2)
    for panel, (name, values) in zip(axes[:2], maps.items(), strict=True):
        extent = (-shape.extent, shape.extent) * 2
        panel.imshow(values.reshape(PIXELS, PIXELS).T.numpy(), origin="lower", extent=extent, cmap="magma", vmin=0, vmax=top)
        panel.set_title(name)
    for panel, points in zip(axes[2:], (test, samples(model, len(test), 2)), strict=True):
        panel.scatter(*points.T.numpy(), s=1, linewidths=0, alpha=0.5, color="black")
        panel.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    write_figure(path, figure, DPI)


def layers_picture(path: str | Path, model: Flow) -> None:
    """Draws how a grid on the noise of a flow in the plane is bent layer by layer until it lies on the data."""
    steps = flat(model.transform)
    points = torch.linspace(-EXTENT, EXTENT, 201)
    even = torch.linspace(-EXTENT, EXTENT, LINES)
    across = torch.stack(torch.meshgrid(even, points, indexing="ij"), dim=-1)
    x = torch.cat([across, across.flip(-1)]).reshape(-1, 2, 1)
    stages = [("noise", x)]
    with torch.no_grad():
        for step in reversed(steps):
            x = step.inverse(x)[0]
            if not isinstance(step, Reverse | Permutation):
                stages.append((type(step).__name__, x))
            else:
                stages[-1] = (stages[-1][0], x)
    kept = sorted({round(i) for i in np.linspace(0, len(stages) - 1, min(len(stages), MAX_PANELS))})
    figure, axes = _panels(len(kept), columns=min(4, len(kept)))
    for panel, i in zip(axes, kept, strict=False):
        name, x = stages[i]
        for k, line in enumerate(x.reshape(2 * LINES, -1, 2)):
            color = ("tab:blue", "tab:orange")[k // LINES]
            panel.plot(*line.T.numpy(), color=color, linewidth=0.6)
        panel.set(title="noise" if i == 0 else f"{i}: {name}", aspect="equal", adjustable="datalim")
    write_figure(path, figure, DPI)


def jacobian_picture(path: str | Path, model: Flow, rows: Tensor) -> None:
    """Draws mean |dz_i / dx_j| over a few rows (N, D, 1), of columns of deviation 1: who sees whom."""
    features = rows.shape[1]
    matrices = [torch.autograd.functional.jacobian(lambda x: model.transform(x)[0], row[None]) for row in rows]
    size = torch.stack([m.reshape(features, features).abs() for m in matrices]).mean(dim=0) * rows.std(dim=0).T
    figure, (panel,) = _panels(1, columns=1)
    image = panel.imshow(size.clamp(min=1e-3).log10().numpy(), cmap="magma", vmin=-3)
    panel.set(title="log10 |dz / dx|", xlabel="x", ylabel="z")
    figure.colorbar(image, ax=panel)
    write_figure(path, figure, DPI)


def samples_picture(path: str | Path, model: Flow, test: Tensor, columns: list[str], levels: int | None) -> None:
    """Draws samples beside data (N, D): digits as pictures, of a table the histogram of each column."""
    sampled = samples(model, min(len(test), 2000), test.shape[1])
    if levels:
        side = math.isqrt(test.shape[1])
        figure, axes = _panels(2, columns=2)
        for panel, name, x in zip(axes, ("data", "samples"), (test[:64], sampled[:64]), strict=True):
            tiles = torch.cat([x, x.new_zeros(64 - len(x), x.shape[1])]).reshape(8, 8, side, side)
            tiles = functional.pad(tiles, (1, 1, 1, 1), value=0.3).transpose(1, 2)
            panel.imshow(tiles.reshape(8 * side + 16, -1).numpy(), cmap="gray", vmin=0, vmax=1)
            panel.set(title=name, xticks=[], yticks=[])
    else:
        figure, axes = _panels(min(len(columns), MAX_PANELS), columns=min(4, len(columns)))
        for i, (panel, name) in enumerate(zip(axes, columns, strict=False)):
            low, high = test[:, i].quantile(0.005).item(), test[:, i].quantile(0.995).item()
            bins = np.linspace(low, high if high > low else low + 1, 40)
            for x, color in ((test, "tab:gray"), (sampled, "tab:orange")):
                panel.hist(x[:, i].numpy(), bins=bins, density=True, histtype="step", color=color)
            panel.set_title(name, fontsize=9, parse_math=False)
        figure.legend(["data", "samples"], loc="outside lower center", ncols=2)
    write_figure(path, figure, DPI)


def curve_picture(path: str | Path, history: History) -> None:
    """Draws the negative log-likelihood of training (dashed) and validation against the epochs, the kept one marked."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    panel = figure.subplots()
    train, validation = zip(*history.epochs, strict=True)
    panel.plot(train, "--", color="C0", linewidth=0.8, label="training")
    panel.plot(validation, color="C0", label="validation")
    panel.plot(history.best, validation[history.best], "o", color="C0")
    ends = [value for epoch in history.epochs[len(history.epochs) // 20 :] for value in epoch]
    margin = 0.05 * (max(ends) - min(ends)) + 0.01
    panel.set(xlabel="epoch", ylabel="-log p, nats per row, in the data's units", ylim=(min(ends) - margin, max(ends) + margin))
    panel.legend()
    write_figure(path, figure, DPI)


@torch.no_grad()
def samples(model: Flow, n: int, features: int) -> Tensor:
    """Draws rows (n, features)."""
    like = next(model.parameters())
    return model.sample(model.noise((n, features, 1), like=like))[..., 0]


def flat(transform: Any) -> list[Transform]:
    """Returns the links of a chain, those of the chains in it too."""
    return [part for link in transform.transforms for part in flat(link)] if isinstance(transform, Chain) else [transform]


def _panels(n: int, columns: int) -> tuple[Figure, list]:
    """A figure with n equal panels."""
    lines = math.ceil(n / columns)
    figure = Figure(figsize=(0.6 + 3.2 * columns, 0.4 + 3.2 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in axes[n:]:
        panel.set_visible(False)
    return figure, list(axes[:n])
