"""A report folder: spectrogram and curve pictures, and one page of tables, players and pictures.

Pictures use matplotlib's `Figure` objects and never pyplot, so that no global state and no display is touched. Every
file is written aside and renamed: a reader sees the old one or the new one.
"""

import csv
import html
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavflow.evaluation.metrics import Interval

Row = Mapping[str, Any]
MISSING = "–"


@contextmanager
def _aside(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the name of `path` at the end, or goes if the writing fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# Pictures ------------------------------------------------------------------------------------------------------------


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
        picture = axes.imshow(
            level, extent=extent, origin="lower", aspect="auto", cmap="magma", vmin=top - 70, vmax=top
        )
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", pad=3, parse_math=False)
        axes.set_ylabel("kHz")
        axes.set_xlim(0, seconds)
    rows[-1].set_xlabel("seconds")
    bar = figure.colorbar(picture, ax=list(rows), pad=0.01, aspect=16 * len(signals), extend="both")
    bar.set_label("dB re full-scale sine")
    if title:
        figure.suptitle(title, fontsize=13, parse_math=False)
    with _aside(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _level(name: str, signal: torch.Tensor | np.ndarray, longest: float) -> np.ndarray:
    """Spectrogram (bins, frames) in dB re a full-scale sine, fine enough for the width of the picture and no finer."""
    audio = torch.as_tensor(signal).detach().cpu().float()
    if audio.dim() != 1 or audio.numel() == 0:
        raise ValueError(
            f"Signal {name!r} must be one clip (T,) with T >= 1, got shape {tuple(audio.shape)}: cut it out."
        )
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
    with _aside(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _read_curves(csv_path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Figure to part (`train`, `validation`) to points (n, 2) of step and value."""
    if not Path(csv_path).is_file():
        raise FileNotFoundError(
            f"`csv_paths` must name metrics.csv files, got {csv_path}, which is not there: train first."
        )
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


# Tables --------------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """The value as built-in types: scalars of numpy and torch unpacked, `nan` and infinities as None."""
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{column: _plain(value) for column, value in row.items()} for row in rows]


def _decimals(value: float) -> int:
    """Decimals for three significant digits, four from 1 on: .957, 4.684, 12.35, 1234."""
    exponent = math.floor(math.log10(abs(value))) if value else -1
    return max(0, (3 if exponent >= 0 else 2) - exponent)


def _format(value: Any) -> str:
    if isinstance(value, Interval):
        half_width = _plain(value.half_width)
        spread = "" if half_width is None else f" ± {half_width:.{_decimals(value.mean)}f}"
        return _format(value.mean) + spread
    value = _plain(value)
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{_decimals(value)}f}" if value == 0 or abs(value) >= 1e-4 else f"{value:.2e}"
    return str(value)


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _is_number(value: Any) -> bool:
    """True for what goes to the right of its column; what is missing goes there too."""
    value = value.mean if isinstance(value, Interval) else _plain(value)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Renders rows as a Markdown table, numbers with sensible digits and to the right.

    Args:
        rows: Column name to value: numbers (also 0-dim tensors), text, or an `Interval`, shown as `mean ± half-width`.
            What is missing, None or not finite shows as a dash.
        columns: Names and order of the columns; all that occur by default.
    """
    if not rows:
        return ""
    columns = _columns(rows) if columns is None else list(columns)
    right = [all(_is_number(row.get(column)) for row in rows) for column in columns]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join("---:" if is_number else "---" for is_number in right) + "|"
    body = [line([_format(row.get(column)) for column in columns]) for row in rows]
    return "\n".join([line(columns), rule, *body]) + "\n"


def _html_table(rows: Sequence[Row]) -> str:
    """The rows as a table that scrolls sideways where the screen is narrow; the first cell of a row names it."""
    columns = _columns(rows)
    kinds = {
        column: ' class="number"' if all(_is_number(row.get(column)) for row in rows) else "" for column in columns
    }
    head = "".join(f'<th scope="col"{kinds[column]}>{html.escape(column)}</th>' for column in columns)
    body = []
    for row in rows:
        first, *others = (html.escape(_format(row.get(column))) for column in columns)
        cells = (f"<td{kinds[column]}>{text}</td>" for column, text in zip(columns[1:], others, strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>')
    lines = "\n".join(body)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


# The report ----------------------------------------------------------------------------------------------------------

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6475; --line: #d9dde5; --page: #fff; --card: #f5f6f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa3b5; --line: #343b4a; --page: #14171d; --card: #1d222b; }
}
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; } li { margin: .25rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .4rem .75rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
.clip { background: var(--card); border-radius: .6rem; padding: 1rem; margin: 0 0 1rem; }
.players { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .75rem; }
.players span { display: block; color: var(--soft); font-size: .85rem; } audio { width: 100%; height: 2.4rem; }
figure { margin: 0 0 1rem; } .clip figure { margin: 1rem 0 0; }
figcaption { color: var(--soft); font-size: .85rem; } img { max-width: 100%; height: auto; border-radius: .4rem; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


class _Page(NamedTuple):
    """What both renderings of the report show; pictures and wav files are links by now."""

    title: str
    summary: Sequence[Row]
    clips: Sequence[Row]
    pictures: Mapping[str, str]
    wavs: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]


def write_report(
    folder: str | Path,
    title: str,
    *,
    summary: Sequence[Row],
    clips: Sequence[Row] = (),
    pictures: Mapping[str, str | Path] | None = None,
    wavs: Mapping[str, Mapping[str, str | Path]] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes `report.md`, `index.html` and `figures.json` into a folder that already holds the pictures and wav files.

    Args:
        folder: Made if it is not there. The page links with relative paths, so the folder may be moved.
        title: Heading of the page.
        summary: One row per system (recording, teacher, ...), see `markdown_table` for what a cell may hold.
        clips: One row per clip and system.
        pictures: Caption to PNG inside `folder`. One named like a clip of `wavs` stands under that clip's players.
        wavs: Clip to system to wav file inside `folder`.
        notes: One sentence each, below the table: what was measured, on what, with which command.

    Raises:
        ValueError: If a picture or wav file is not inside `folder`.
    """
    folder = Path(folder)
    links = {caption: _link(folder, path) for caption, path in (pictures or {}).items()}
    players = {clip: {name: _link(folder, path) for name, path in row.items()} for clip, row in (wavs or {}).items()}
    page = _Page(title, summary, clips, links, players, notes)
    figures = {"title": title, "summary": _plain_rows(summary), "clips": _plain_rows(clips), "notes": list(notes)}
    files = {
        "figures.json": json.dumps(figures, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "report.md": _markdown_page(page),
        "index.html": _html_page(page),
    }
    for name, text in files.items():
        with _aside(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def _link(folder: Path, path: str | Path) -> str:
    """URL of a file, relative to `folder`; a relative `path` may start at `folder` or at the working directory."""
    root = folder.resolve()
    for candidate in ((folder / path).resolve(), Path(path).resolve()):
        if candidate.is_file() and candidate.is_relative_to(root):
            return quote(candidate.relative_to(root).as_posix())
    raise ValueError(f"Pictures and wav files must lie inside {folder}, got {path}: write them there first.")


def _markdown_page(page: _Page) -> str:
    blocks = [f"# {page.title}", markdown_table(page.summary), "\n".join(f"- {note}" for note in page.notes)]
    if page.wavs:
        lines = (", ".join(f"[{name}]({link})" for name, link in row.items()) for row in page.wavs.values())
        blocks += ["## Listen", "\n".join(f"- {clip}: {line}" for clip, line in zip(page.wavs, lines, strict=True))]
    if page.pictures:
        blocks += ["## Pictures", *(f"![{caption}]({link})" for caption, link in page.pictures.items())]
    if page.clips:
        blocks += ["## Clip by clip", markdown_table(page.clips)]
    return "\n\n".join(block.strip() for block in blocks if block) + "\n"


def _html_page(page: _Page) -> str:
    blocks = [_html_table(page.summary)]
    if page.notes:
        blocks += ["<ul>", *(f"<li>{html.escape(note)}</li>" for note in page.notes), "</ul>"]
    if page.wavs:
        blocks += ["<h2>Listen</h2>", *(_html_clip(page, clip) for clip in page.wavs)]
    others = [caption for caption in page.pictures if caption not in page.wavs]
    if others:
        blocks += ["<h2>Pictures</h2>", *(_html_figure(page, caption) for caption in others)]
    if page.clips:
        blocks += ["<h2>Clip by clip</h2>", _html_table(page.clips)]
    return PAGE.substitute(title=html.escape(page.title), body="\n".join(blocks))


def _html_clip(page: _Page, clip: str) -> str:
    """One player per system, and the clip's picture below."""
    players = [
        f'<div><span>{html.escape(name)}</span><audio controls preload="metadata" src="{link}" '
        f'aria-label="{html.escape(f"{clip}, {name}")}"></audio></div>'
        for name, link in page.wavs[clip].items()
    ]
    picture = [_html_figure(page, clip)] if clip in page.pictures else []
    head = f'<section class="clip"><h3>{html.escape(clip)}</h3>'
    return "\n".join([head, '<div class="players">', *players, "</div>", *picture, "</section>"])


def _html_figure(page: _Page, caption: str) -> str:
    link, text = page.pictures[caption], html.escape(caption)
    below = "" if caption in page.wavs else f"<figcaption>{text}</figcaption>"
    return f'<figure><a href="{link}"><img src="{link}" alt="{text}" loading="lazy"></a>{below}</figure>'
