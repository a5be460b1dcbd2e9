"""Charts of the report, as SVG that takes its colours from the page: training curves and comparisons of runs.

matplotlib knows no CSS, so it draws in stand-in colours, which are replaced by the page's own.
"""

import csv
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FIRST, SECOND = "#010203", "#010205", "#010207"
COLOURS = {INK: "currentColor", FIRST: "var(--accent)", SECOND: "var(--second)"}
PARTS = {"train": FIRST, "validation": SECOND}
PROMINENT = {"loss": 0, "bits": 1, "kl": 1, "nats": 2, "spectral": 2}  # their order; the others follow by name


class Scatter(NamedTuple):
    """A comparison of runs: one point (name, x, y) each."""

    title: str
    x_label: str
    y_label: str
    points: Sequence[tuple[str, float, float]]


def curve_charts(name: str, csv_path: str | Path) -> dict[str, str]:
    """Draws the curves of a run's `metrics.csv`; training and validation of a figure share a chart.

    Columns are named `train/<figure>` and `validation/<figure>`, Lightning's endings `_step` and `_epoch` aside; others
    are left out. Rows are sparse: an empty cell means that nothing was logged there.

    Args:
        name: Of the run.
        csv_path: Its `metrics.csv`.

    Returns:
        Figure to SVG, the prominent ones first; empty if nothing was logged.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    charts = {}
    for figure, parts in _read_curves(csv_path).items():
        canvas, axes = _canvas()
        _draw_curves(axes, parts)
        axes.set_xlabel("step")
        charts[figure] = _svg(canvas, f"{name}, {figure}, by step")
    return charts


def scatter_chart(scatter: Scatter) -> str:
    """Draws runs as named points, as SVG; an axis that spans more than a factor of 30 is logarithmic.

    Raises:
        ValueError: If no point is finite.
    """
    points = [point for point in scatter.points if math.isfinite(point[1]) and math.isfinite(point[2])]
    if not points:
        raise ValueError(f"`scatter` must hold at least one finite point, got none in {scatter.title!r}: leave it out.")
    canvas, axes = _canvas(6.0, 3.6)
    names, *values = zip(*points, strict=True)
    axes.margins(0.18)
    for numbers, set_scale, axis in zip(values, (axes.set_xscale, axes.set_yscale), (axes.xaxis, axes.yaxis), strict=True):
        if min(numbers) > 0 and max(numbers) > 30 * min(numbers):
            set_scale("log")
            axis.set_major_formatter("{x:g}")
    axes.scatter(*values, color=FIRST, s=36, zorder=3)
    for text, x, y in zip(names, *values, strict=True):
        axes.annotate(text, (x, y), xytext=(0, 7), textcoords="offset points", ha="center", color=INK, parse_math=False)
    axes.set_xlabel(scatter.x_label, parse_math=False)
    axes.set_ylabel(scatter.y_label, parse_math=False)
    return _svg(canvas, f"{scatter.title}: {scatter.y_label} by {scatter.x_label}")


def _canvas(width: float = 4.2, height: float = 2.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=INK, alpha=0.35)
    axes.tick_params(color=INK, labelcolor=INK, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    """The figure without ids that might clash on the page, its text as text, its colours those of the page."""
    file = io.StringIO()
    # Ids of clip paths and markers are hashes, of the label too: the same label twice would mean the same chart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head).group()
    return f'<svg class="chart" {box} role="img" aria-label="{html.escape(label)}">{body}'


def _read_curves(csv_path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Figure to part (`train`, `validation`) to points (n, 2) of step and value."""
    if not Path(csv_path).is_file():
        raise FileNotFoundError(f"`csv_path` must name a metrics.csv, got {csv_path}, which is not there: train first.")
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with open(csv_path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, cell in row.items():
                part, _, suffix = (column or "").partition("/")
                if part not in PARTS or not cell or not row.get("step"):
                    continue
                suffix = suffix.removesuffix("_step").removesuffix("_epoch")
                if math.isfinite(value := float(cell)):
                    points.setdefault(suffix, {}).setdefault(part, []).append((float(row["step"]), value))
    ordered = sorted(points.items(), key=lambda item: (PROMINENT.get(item[0], len(PROMINENT)), item[0]))
    return {suffix: {part: np.asarray(sorted(parts[part])) for part in sorted(parts)} for suffix, parts in ordered}


def _draw_curves(axes: Axes, parts: Mapping[str, np.ndarray]) -> None:
    """Training faint under its running mean, validation as dots; early outliers don't set the scale."""
    shown = []
    for part, points in parts.items():
        steps, values = points.T
        smooth = values
        if part == "train" and len(values) >= 50:
            axes.plot(steps, values, color=PARTS[part], alpha=0.25, linewidth=0.8)
            width = len(values) // 25
            weight = np.convolve(np.ones_like(values), np.ones(width), "same")  # fewer points near the ends
            smooth = np.convolve(values, np.ones(width), "same") / weight
        marker = "o" if part == "validation" or len(values) == 1 else None
        axes.plot(steps, smooth, color=PARTS[part], linewidth=1.6, marker=marker, markersize=3)
        shown.append(np.quantile(values, [0.01, 0.99] if part == "train" else [0, 1]))
    low, high = np.min(shown), np.max(shown)
    if high > low:
        axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
