"""What a run of the benchmark found: tables, a picture, and the machine that it was found on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from wavflow.files import atomic_write
from wavflow.reporting.tables import markdown_table

SHOWN = ("model", "engine", "step", "form", "files", "format", "workers", "samples", "seconds of audio", "x real time",
         "x real time per core", "samples/s", "audio seconds/s", "first audio ms", "look-ahead ms", "sweeps", "residual",
         "MiB above idle", "MiB in all", "lengths", "time grows as length to the", "median s", "quartiles s",
         "share of floor")  # fmt: skip


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Renders rows as text in aligned columns, numbers to the right; what is in every row empty is left out."""
    columns = [column for column in SHOWN if any(row.get(column) is not None for row in rows)]
    plain = [{column: _span(row.get(column)) for column in columns} for row in rows]
    head, rule, *body = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in markdown_table(plain, columns).splitlines()
    )
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    right = [mark.endswith(":") for mark in rule]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), "  ".join("─" * width for width in widths), *map(line, body)])


def _span(value: Any) -> Any:
    return f"{value[0]:.3g} to {value[1]:.3g}" if isinstance(value, tuple) else value


def machine(device: torch.device) -> dict[str, Any]:
    """Returns what a figure depends on and does not say itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # before the run: what else is going on
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def headline(facts: Mapping[str, Any], ceilings: Mapping[str, Any]) -> str:
    """Returns the machine and its ceilings in two lines."""
    rates = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in ceilings["operations/s"].items())
    return (
        f"{facts['processor']}, {facts['device']}, {facts['threads']} thread(s), torch {facts['torch']}, "
        f"commit {facts['commit'] or 'unknown'}\n"
        f"matrix products, 1e9 operations/s: {rates}; copies {ceilings['copied bytes/s'] / 1e9:.1f} GB/s"
    )


def commit() -> str | None:
    """Returns the commit of the checkout that this runs from, and whether it was changed; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def growth_picture(path: Path, rows: Sequence[Mapping[str, Any]], slopes: Sequence[Mapping[str, Any]]) -> None:
    """Draws time against length on logarithmic axes, one line for each engine, its slope told; a slope of 1 is linear."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for slope in slopes:
        key = (slope["model"], slope["engine"])
        mine = (row for row in rows if (row["model"], row["engine"]) == key)
        points = sorted((row["seconds of audio"], row["median s"], *row["quartiles s"]) for row in mine)
        x, y, low, high = zip(*points, strict=True)
        power = slope["time grows as length to the"]
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=f"{', '.join(key)}: length to the {power:.2f}")
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    lengths = [row["seconds of audio"] for row in rows]
    ends = min(lengths), max(lengths)
    axes.plot(ends, ends, color="0.6", linestyle="--", linewidth=1, label="real time")
    axes.set(xscale="log", yscale="log", xlabel="seconds of audio", ylabel="seconds to draw them")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.grid(which="major", alpha=0.3)
    axes.legend(fontsize=9, frameon=False)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=120)
