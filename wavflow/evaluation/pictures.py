"""Pictures of a report: spectrograms and training curves.

They use matplotlib's `Figure` objects and never pyplot, so that no global state and no display is touched.
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavflow.files import aside


def spectrogram_picture(
    path: str | Path, signals: Mapping[str, torch.Tensor | np.ndarray], sample_rate: int, title: str = ""
) -> None:
    """Draws one log-spectrogram per signal, one above the other, with one time axis and one range of colours.

    Args:
        path: The PNG to write.
        signals: Name to audio (T,) in [-1, 1), in the order of the rows; lengths may differ.
        sample_rate: In Hz, of all of them.
        title: Stands above the first row.

    Raises:
        ValueError: If there is no signal or one is not (T,).
    """
    if not signals:
        raise ValueError("`signals` must hold at least one signal, got none: nothing to draw.")
    seconds = max(len(signal) for signal in signals.values()) / sample_rate
    figure = Figure(figsize=(11, 0.9 + 2.1 * len(signals)), layout="constrained")
    rows = figure.subplots(len(signals), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    levels = {name: _level(name, signal, seconds * sample_rate) for name, signal in signals.items()}
    # The few loudest bins would leave the rest in the dark: the scale ends where two bins in a thousand lie above.
    top = max(float(np.quantile(level, 0.998)) for level in levels.values())
    for axes, (name, level) in zip(rows, levels.items(), strict=True):
        extent = (0.0, len(signals[name]) / sample_rate, 0.0, sample_rate / 2000)
        picture = axes.imshow(level, extent=extent, origin="lower", aspect="auto", cmap="magma", vmin=top - 70, vmax=top)
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", pad=3, parse_math=False)
        axes.set_ylabel("kHz")
        axes.set_xlim(0, seconds)
    rows[-1].set_xlabel("seconds")
    bar = figure.colorbar(picture, ax=list(rows), pad=0.01, aspect=16 * len(signals), extend="both")
    bar.set_label("dB re full-scale sine")
    if title:
        figure.suptitle(title, fontsize=13, parse_math=False)
    with aside(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _level(name: str, signal: torch.Tensor | np.ndarray, longest: float) -> np.ndarray:
    """Spectrogram (bins, frames) in dB re a full-scale sine, fine enough for the width of the picture and no finer."""
    audio = torch.as_tensor(signal).detach().cpu().float()
    if audio.dim() != 1 or audio.numel() == 0:
        raise ValueError(f"Signal {name!r} must be one clip (T,) with T >= 1, got shape {tuple(audio.shape)}: cut it out.")
    window = torch.hann_window(1024, dtype=torch.float32)
    hop_length = max(64, math.ceil(longest / 1600))
    spectrum = torch.stft(audio, 1024, hop_length, window=window, pad_mode="constant", return_complex=True)
    return (20 * (2 * spectrum.abs() / window.sum()).clamp(min=1e-6).log10()).numpy()


def curves_picture(path: str | Path, csv_paths: Mapping[str, str | Path]) -> None:
    """Draws the curves of `metrics.csv` files, one block per run; training and validation of a figure share its axes.

    Columns are named `train/<figure>` and `validation/<figure>`, Lightning's endings `_step` and `_epoch` aside; others
    are left out. Rows are sparse: an empty cell means that nothing was logged there.

    Args:
        path: The PNG to write.
        csv_paths: Name of the run to its `metrics.csv`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If no file holds a curve.
    """
    runs = {name: curves for name, csv_path in csv_paths.items() if (curves := _read_curves(csv_path))}
    if not runs:
        names = ", ".join(str(csv_path) for csv_path in csv_paths.values()) or "no file"
        raise ValueError(
            f"`csv_paths` must hold columns train/... or validation/..., got none in {names}: train and log first."
        )
    columns = min(3, max(len(curves) for curves in runs.values()))
    heights = [math.ceil(len(curves) / columns) for curves in runs.values()]
    figure = Figure(figsize=(4.2 * columns, 2.6 * sum(heights) + 0.5 * len(runs)), layout="constrained")
    blocks = figure.subfigures(len(runs), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, height, (name, curves) in zip(blocks, heights, runs.items(), strict=True):
        block.suptitle(name, fontsize=13, fontweight="bold", parse_math=False)
        grid = block.subplots(height, columns, squeeze=False).flat
        for axes in list(grid)[len(curves) :]:
            axes.set_axis_off()
        for axes, (suffix, parts) in zip(block.axes, curves.items(), strict=False):
            _draw_curves(axes, suffix, parts)
    with aside(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _read_curves(csv_path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Figure to part (`train`, `validation`) to points (n, 2) of step and value."""
    if not Path(csv_path).is_file():
        raise FileNotFoundError(f"`csv_paths` must name metrics.csv files, got {csv_path}, which is not there: train first.")
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with open(csv_path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, cell in row.items():
                part, _, suffix = (column or "").partition("/")
                if part not in ("train", "validation") or not cell or not row.get("step"):
                    continue
                suffix = suffix.removesuffix("_step").removesuffix("_epoch")
                if math.isfinite(value := float(cell)):
                    points.setdefault(suffix, {}).setdefault(part, []).append((float(row["step"]), value))
    ordered = sorted(points.items(), key=lambda item: (item[0] != "loss", item[0]))
    return {suffix: {part: np.asarray(sorted(parts[part])) for part in sorted(parts)} for suffix, parts in ordered}


def _draw_curves(axes: Axes, suffix: str, parts: Mapping[str, np.ndarray]) -> None:
    """Training faint under its running mean, validation as dots; early outliers don't set the scale."""
    colours = {"train": "tab:blue", "validation": "tab:orange"}
    shown = []
    for part, points in parts.items():
        steps, values = points.T
        smooth = values
        if part == "train" and len(values) >= 50:
            axes.plot(steps, values, color=colours[part], alpha=0.25, linewidth=0.8)
            width = len(values) // 25
            weight = np.convolve(np.ones_like(values), np.ones(width), "same")  # fewer points near the ends
            smooth = np.convolve(values, np.ones(width), "same") / weight
        marker = "o" if part == "validation" or len(values) == 1 else None
        axes.plot(steps, smooth, color=colours[part], label=part, linewidth=1.6, marker=marker, markersize=3.5)
        shown.append(np.quantile(values, [0.01, 0.99] if part == "train" else [0, 1]))
    low, high = np.min(shown), np.max(shown)
    if high > low:
        axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    axes.set_title(suffix, loc="left", fontsize=10, parse_math=False)
    axes.set_xlabel("step", fontsize=9)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
