"""Charts of the report as SVG in the page's own colors: training curves and comparisons of runs."""

import csv
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavflow.evaluation.report.drawings import Axis, path

COLORS = {"train": "var(--accent)", "validation": "var(--second)"}
PROMINENT = {"loss": 0, "bits": 1, "kl": 1, "nats": 2, "spectral": 2}  # their order; the others follow by name


class Scatter(NamedTuple):
    """A comparison of runs: one point (name, x, y) each, finite, at least one."""

    title: str
    x_label: str
    y_label: str
    points: Sequence[tuple[str, float, float]]


def curve_charts(name: str, csv_path: str | Path) -> dict[str, str]:
    """Draws the curves of a run's `metrics.csv`: value to SVG, the prominent ones first; empty if nothing was logged.

    Columns are named `train/<value>` and `validation/<value>`, Lightning's endings `_step` and `_epoch` aside; others
    are left out. Training and validation share a chart. Rows are sparse: an empty cell means that nothing was logged there.
    """
    return {value: _curve_chart(f"{name}, {value}, by step", parts) for value, parts in _read_curves(csv_path).items()}


def scatter_chart(scatter: Scatter) -> str:
    """Draws runs as named points, as SVG; an axis that spans more than a factor of 30 is logarithmic."""
    names, *values = zip(*scatter.points, strict=True)
    x, y = _margins(values[0], 60, 420, 0.18), _margins(values[1], 210, 10, 0.18)
    places = zip(names, x.place(np.array(values[0])), y.place(np.array(values[1])), strict=True)
    marks = (
        f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="var(--accent)"/>'
        f'<text x="{across:.1f}" y="{down - 8:.1f}" text-anchor="middle">{html.escape(name)}</text>'
        for name, across, down in places
    )
    return _svg(
        f"{scatter.title}: {scatter.y_label} by {scatter.x_label}", x, y, scatter.x_label, scatter.y_label, "".join(marks)
    )


def _read_curves(csv_path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Value to part (`train`, `validation`) to points (n, 2) of step and value."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with open(csv_path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, cell in row.items():
                part, _, suffix = (column or "").partition("/")
                if part not in COLORS or not cell or not row.get("step"):
                    continue
                suffix = suffix.removesuffix("_step").removesuffix("_epoch")
                if math.isfinite(value := float(cell)):
                    points.setdefault(suffix, {}).setdefault(part, []).append((float(row["step"]), value))
    ordered = sorted(points.items(), key=lambda item: (PROMINENT.get(item[0], len(PROMINENT)), item[0]))
    return {suffix: {part: np.asarray(sorted(parts[part])) for part in sorted(parts)} for suffix, parts in ordered}


def _curve_chart(label: str, parts: Mapping[str, np.ndarray]) -> str:
    """Draws training faint under its running mean, and validation as dots; early outliers don't set the scale."""
    steps = np.concatenate([points[:, 0] for points in parts.values()])
    shown = [np.quantile(points[:, 1], [0.01, 0.99] if part == "train" else [0, 1]) for part, points in parts.items()]
    x, y = _margins(steps, 50, 295, 0.05, False), _margins(np.ravel(shown), 145, 5, 0.08, False)
    marks = []
    for part, points in parts.items():
        values = points[:, 1]
        width = len(values) // 25 if part == "train" and len(values) >= 50 else 1
        weight = np.convolve(np.ones_like(values), np.ones(width), "same")  # fewer points near the ends
        smooth = np.convolve(values, np.ones(width), "same") / weight
        for curve, style in ((values, 'opacity="0.25"'), (smooth, 'stroke-width="1.6"'))[width == 1 :]:
            line = [*zip(x.place(points[:, 0]), y.place(curve), strict=True)]
            marks.append(f'<path d="{path(line)}" fill="none" stroke="{COLORS[part]}" {style}/>')
        if part == "validation" or len(values) == 1:
            marks += [f'<circle cx="{across:.1f}" cy="{down:.1f}" r="2" fill="{COLORS[part]}"/>' for across, down in line]
    return _svg(label, x, y, "step", "", "".join(marks))


def _margins(values: Sequence[float] | np.ndarray, start: float, end: float, margin: float, may_be_log: bool = True) -> Axis:
    """Returns an axis over all values and a fraction of their range on both sides."""
    low, high = float(np.min(values)), float(np.max(values))
    if may_be_log and low > 0 and high > 30 * low:
        factor = (high / low) ** margin
        return Axis(low / factor, high * factor, start, end, logarithmic=True)
    more = margin * (high - low) or abs(high) * margin or margin
    return Axis(low - more, high + more, start, end)


def _svg(label: str, x: Axis, y: Axis, x_label: str, y_label: str, marks: str) -> str:
    """Axes, grid and labels around `marks`, which are cut off at the axes."""
    left, right, bottom, top = x.start, x.end, y.start, y.end
    across, down = x.labels(), y.labels()
    grid = "".join(f"M{at:.1f} {bottom}V{top}" for _, at in across) + "".join(f"M{left} {at:.1f}H{right}" for _, at in down)
    texts = [f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{tick}</text>' for tick, at in across]
    texts += [f'<text x="{left - 5}" y="{at + 3:.1f}" text-anchor="end">{tick}</text>' for tick, at in down]
    middle = (bottom + top) / 2
    texts.append(f'<text x="{(left + right) / 2}" y="{bottom + 29}" text-anchor="middle">{html.escape(x_label)}</text>')
    if y_label:
        turned = f'transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle"'
        texts.append(f"<text {turned}>{html.escape(y_label)}</text>")
    width, height = right - left, bottom - top
    inner = f'x="{left}" y="{top}" width="{width}" height="{height}" viewBox="{left} {top} {width} {height}"'
    return (
        f'<svg class="chart" viewBox="0 0 {right + 5} {bottom + 34}" role="img" aria-label="{html.escape(label)}">'
        f'<path d="{grid}" stroke="currentColor" opacity="0.12"/>'
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" opacity="0.35"/>'
        f'<g fill="currentColor" font-size="10">{"".join(texts)}<svg {inner} aria-hidden="true">{marks}</svg></g></svg>'
    )
