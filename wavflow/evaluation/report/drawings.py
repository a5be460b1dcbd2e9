"""Drawings of the report page, written as SVG and HTML: lanes under a spectrogram, and the ladder of likelihoods.

A lane is as wide as its clip: its x is seconds, and the page zooms it by changing its `viewBox`; its y is 0 (top) to 100.
"""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import Tensor

from wavflow.evaluation.pitch import HOP_LENGTH
from wavflow.reporting.intervals import Interval
from wavflow.reporting.tables import Row

LOW_PERCENTILE = 0.05
EDGES = 96, 4  # y of the least and of the greatest value in a lane
Labels = Sequence[tuple[str, float]]
"""The labels of an axis, and where they stand on it."""


class Axis(NamedTuple):
    """A range of values, linear or logarithmic, and the pixels (of a lane, the y) that it is drawn over."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """Returns the pixels of values."""
        low, high, values = (np.log(x) if self.logarithmic else np.asarray(x) for x in (self.low, self.high, values))
        return self.start + (values - low) / ((high - low) or 1.0) * (self.end - self.start)

    def labels(self) -> Labels:
        """Returns round numbers within the range, and their pixels."""
        subs = (1, 3) if self.high < 1e5 * self.low else (1,)  # where it skips decades, LogLocator gives no numbers for (1, 3)
        locator = LogLocator(subs=subs) if self.logarithmic else MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3)
        ticks = locator.tick_values(self.low, self.high)
        return [(f"{tick:g}", float(self.place(tick))) for tick in ticks if self.low <= tick <= self.high]


def lane(title: str, labels: Labels, content: str, kind: str) -> str:
    """Returns a strip with its title above and its axis at the left; the page puts playheads into `.plot`."""
    axis = "".join(f'<span style="top:{y:.2f}%">{html.escape(label)}</span>' for label, y in labels)
    return (
        f'<div class="lane {kind}"><div class="axis" aria-hidden="true">{axis}</div><div class="plot">{content}</div>'
        f'<p class="title">{title}</p></div>'
    )


def likelihood_lane(log_probs: Mapping[str, Tensor], hop_length: int, sample_rate: int, seconds: float) -> str:
    """Log-likelihood of the recording along its time, of each sample and by frame.

    A line is the mean of each frame, and a band reaches down to its 5th percentile. A canvas for each model holds the samples
    as bytes, 255 at the top; the page's script draws them there, at any zoom.

    `log_probs` maps a model to nats per sample (T,); what is not finite is drawn at the bottom, and "" if nothing is.
    """
    nats = {name: log_prob.detach().cpu().double().numpy() for name, log_prob in log_probs.items()}
    every = np.concatenate([*nats.values()])
    if not np.isfinite(every).any():
        return ""
    low, high = np.quantile(every[np.isfinite(every)], [0.001, 0.999])  # the few strangest would flatten the rest
    axis, samples, paths = Axis(low, high, *EDGES), [], []
    for i, (name, each) in enumerate(nats.items()):
        each = np.where(np.isfinite(each), each, low)
        frames = each[: max(1, len(each) // hop_length) * hop_length].reshape(-1, min(hop_length, len(each)))
        values = each, frames.mean(axis=1), np.quantile(frames, LOW_PERCENTILE, axis=1)
        y, top, bottom = (axis.place(value).clip(0, 100) for value in values)
        data = base64.b64encode(np.rint((96 - y).clip(0, 92) / 92 * 255).astype(np.uint8).tobytes()).decode()
        words = html.escape(f"Log-likelihood of each sample under {name}")
        samples.append(f'<canvas class="series-{i}" role="img" aria-label="{words}" data-samples="{data}"></canvas>')
        x = (np.arange(len(top)) + 0.5) * hop_length / sample_rate
        band = [*zip(x, top, strict=True), *zip(x[::-1], bottom[::-1], strict=True)]
        paths.append(f'<path class="band series-{i}" d="{path(band)}Z"/>')
        paths.append(f'<path class="line series-{i}" d="{path([*zip(x, top, strict=True)])}"/>')
    label = f"Log-likelihood of the recording under {', '.join(nats)}, nats per sample"
    names = ", ".join(f'<b class="series-{i}">{html.escape(name)}</b>' for i, name in enumerate(nats))
    return lane(
        f"Log-likelihood of the recording under {names}: nats of each sample, mean of a frame, and down to the 5th percentile",
        axis.labels(),
        "".join(samples) + _lane_svg(label, seconds, axis.labels(), "".join(paths)),
        "likelihood",
    )


def pitch_lane(tracks: Mapping[str, np.ndarray], sample_rate: int, seconds: float) -> str:
    """F0 tracks on a logarithmic axis, one path per system, named in `data-name`; "" if nothing is voiced.

    `tracks` maps a system to F0 in Hz, as `pyin_track` returns it; the first is the recording.
    """
    hertz = np.concatenate([track[np.isfinite(track)] for track in tracks.values()])
    if not len(hertz):
        return ""
    axis = Axis(hertz.min() / 1.06, hertz.max() * 1.06, *EDGES, logarithmic=True)
    ticks = [tick for tick in (60, 80, 100, 150, 200, 300, 400, 600, 800) if axis.low <= tick <= axis.high]
    labels = [(f"{tick} Hz", float(axis.place(tick))) for tick in ticks]
    paths = []
    hop = HOP_LENGTH / sample_rate
    for i, (name, track) in enumerate(tracks.items()):
        ends = np.flatnonzero(np.diff(np.isfinite(track), prepend=False, append=False)).reshape(-1, 2)
        # A lone voiced frame is a point: drawn a hundredth of a second long, with round ends.
        runs = [[(hop * j, float(axis.place(track[j]))) for j in range(*end)] for end in ends]
        d = "".join(path(run if len(run) > 1 else [run[0], (run[0][0] + 0.01, run[0][1])]) for run in runs)
        paths.append(f'<path class="line {"reference" if i == 0 else "other"}" data-name="{html.escape(name)}" d="{d}"/>')
    title = f'F0 of <b class="reference">{html.escape(next(iter(tracks)))}</b>'
    title += '<span class="against"> and <b class="selected">the other versions</b></span>'
    return lane(title, labels, _lane_svg("F0 of each version", seconds, labels, "".join(paths)), "pitch")


def ladder(rows: Sequence[Row]) -> str:
    """Bits per sample as dots on one line each, with their intervals; the first column names the row. "" if no row has any."""
    entries = []
    for row in rows:
        value = row.get("bits/sample")
        mean, half = (value.mean, value.half_width) if isinstance(value, Interval) else (float(value or math.nan), math.nan)
        if math.isfinite(mean):
            entries.append((str(next(iter(row.values()))), mean, half if math.isfinite(half) else 0.0))
    if not entries:
        return ""
    low, high = min(mean - half for _, mean, half in entries), max(mean + half for _, mean, half in entries)
    low, high = low - 0.06 * (high - low or 1.0), high + 0.06 * (high - low or 1.0)
    items = []
    for name, mean, half in entries:
        left, start, width = (100 * x / (high - low) for x in (mean - low, mean - half - low, 2 * half))
        items.append(
            f'<li><span class="name">{html.escape(name)}</span><span class="track" aria-hidden="true">'
            f'<i style="left:{start:.2f}%;width:{width:.2f}%"></i><b style="left:{left:.2f}%"></b></span>'
            f'<span class="value">{mean:.2f}</span></li>'
        )
    words = '<p class="soft">Bits per 16-bit sample, fewer are better; the line is the 95 % interval over clips.</p>'
    return f'{words}<ul class="ladder">{"".join(items)}</ul>'


def _lane_svg(label: str, seconds: float, labels: Labels, content: str) -> str:
    lines = "".join(f'<path class="rule" d="M0 {y:.2f}H{seconds:.5f}"/>' for _, y in labels)
    return (
        f'<svg viewBox="0 0 {seconds:.5f} 100" preserveAspectRatio="none" role="img" aria-label="{html.escape(label)}">'
        f"{lines}{content}</svg>"
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """Returns a polyline as the `d` of an SVG path."""
    return "M" + "L".join(f"{x:.3f} {y:.1f}" for x, y in points)
