"""The report page: a self-contained HTML file that needs no network, and no script for its tables, pictures and players."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wavflow.evaluation.metrics import judging_mel
from wavflow.evaluation.report.charts import curve_charts, scatter_chart
from wavflow.evaluation.report.drawings import ladder, lane, likelihood_lane, pitch_lane
from wavflow.mel import MelSpectrogram
from wavflow.reporting.assets import asset
from wavflow.reporting.pictures import matrix_png, mel_axis
from wavflow.reporting.tables import html_table
from wavflow.writing import encode_audio

if TYPE_CHECKING:
    from wavflow.evaluation.report.folder import Report

RANGE = 8.0  # nepers of a mel spectrogram that are shown: 70 dB
DIFFERENCE = 2.5  # nepers at which a difference has its last color: 22 dB
DECIBEL = 8.686  # per neper


def render_page(report: Report) -> str:
    """Returns the page, sounds and pictures included."""
    recording = next(iter(next(iter(report.sounds.values()), {})), None)
    mel = judging_mel(report.sample_rate)
    labels, better = mel_axis(mel), {name: metric.better for name, metric in report.legend.items()}
    comparisons = [
        f'<div class="card"><h3>{html.escape(scatter.title)}</h3>{scatter_chart(scatter)}</div>' for scatter in report.scatters
    ]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    contents: list[tuple[str, list[str]]] = [
        ("Listen and look", [_clip(report, mel, better, i, clip) for i, clip in enumerate(report.sounds)]),
        ("Systems", [html_table(report.summary, better, recording), _legend(report)] if report.summary else []),
        *((heading, [ladder(rows), html_table(rows, better)] if rows else []) for heading, rows in report.tables.items()),
        ("Comparison", [f'<div class="cards">{"".join(comparisons)}</div>'] if comparisons else []),
        ("Training", _training(report) if report.curves else []),
        ("Models", [_settings(report)] if report.models else []),
        ("Left out", [html_table(report.left_out)] if report.left_out else []),
        ("Notes", [f"<ul>{notes}</ul>"] if report.notes else []),
    ]
    sections = [(f"section-{i}", heading, parts) for i, (heading, parts) in enumerate(contents) if parts]
    first = '<b class="first"></b>'
    return Template(asset("report.html")).substitute(
        title=html.escape(report.title),
        sample_rate=report.sample_rate,
        style=asset("page.css") + asset("report.css"),
        script="\n".join(asset(name) for name in ("theme.js", "tables.js", "player.js", "report.js")),
        wave=lane("Waveform", [], '<canvas role="img" aria-label="Waveform"></canvas>', "wave"),
        mel=lane('Mel spectrogram of <b class="selected"></b>', labels, _EMPTY, "mel"),
        difference=lane(
            f"Absolute difference from {first}, 0 to {DIFFERENCE * DECIBEL:.0f} dB", labels, _EMPTY + _NONE, "difference"
        ),
        links=_links(report.links),
        contents="".join(f'<a href="#{name}">{html.escape(heading)}</a>' for name, heading, _ in sections[1:]),
        body="\n".join(_section(name, heading, *parts) for name, heading, parts in sections),
    )


_EMPTY = '<svg preserveAspectRatio="none" role="img"><image preserveAspectRatio="none" x="0" y="0" height="100"/></svg>'
_NONE = '<p class="none">Choose another version to see where it differs.</p>'


def _section(name: str, heading: str, *parts: str) -> str:
    return f'<section id="{name}">\n<h2>{html.escape(heading)}</h2>\n' + "\n".join(filter(None, parts)) + "\n</section>"


def _links(links: Mapping[str, str]) -> str:
    named = (f'<a href="{html.escape(address)}">{html.escape(title)}</a>' for title, address in links.items())
    return f'<p class="links">See also: {", ".join(named)}</p>' if links else ""


def _legend(report: Report) -> str:
    """What each column of the summary means and which way is better."""
    aims = {"low": "lower is better", "high": "higher is better", "zero": "nearest to 0 is best"}
    entries = [
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(metric.meaning)}. <em>{aims[metric.better].capitalize()}.</em></dd>"
        for name, metric in report.legend.items()
        if any(name in row for row in report.summary)
    ]
    intro = (
        '<p class="soft">Means over clips; ± is the half-width of the 95 % interval. Bold is the best of a column, the '
        "recording aside, where its interval is clear of all others.</p>"
    )
    return f'{intro}<details class="legend"><summary>What the metrics mean</summary><dl>{"".join(entries)}</dl></details>'


def _clip(report: Report, mel: MelSpectrogram, better: Mapping[str, str], index: int, clip: str) -> str:
    """A clip's card: all versions with sound and pictures, from which the script makes one player."""
    sounds = report.sounds[clip]
    longest = max(len(audio) for audio in sounds.values())
    seconds = longest / report.sample_rate
    pictures = _pictures(mel, sounds, longest)
    versions = [
        f'<figure data-name="{html.escape(system)}"><figcaption>{html.escape(system)}</figcaption>'
        f'<audio controls preload="none" src="{_uri("audio/flac", encode_audio(audio, report.sample_rate))}" '
        f'aria-label="{html.escape(f"{clip}, {system}")}"></audio>'
        + "".join(
            f'<img class="{kind}" src="{uri}" alt="{html.escape(f"{words} of {system}")}">'
            for kind, words, uri in pictures[system]
        )
        + "</figure>"
        for system, audio in sounds.items()
    ]
    rows = [{k: v for k, v in row.items() if k != "clip"} for row in report.clips if row.get("clip") == clip]
    table = html_table(rows, better, next(iter(sounds))) if rows else ""
    log_probs, tracks = report.log_probs.get(clip), report.pitch.get(clip)
    lanes = [
        likelihood_lane(log_probs, mel.hop_length, report.sample_rate, seconds) if log_probs else "",
        pitch_lane(tracks, report.sample_rate, seconds) if tracks else "",
    ]
    frames = -(-longest // mel.hop_length)
    return (
        f'<article class="clip card" id="clip-{index + 1}" aria-labelledby="name-{index + 1}" data-seconds="{seconds:.6f}" '
        f'data-picture-seconds="{frames * mel.hop_length / report.sample_rate:.6f}">\n'
        f'<h3 id="name-{index + 1}">{html.escape(clip)} <span class="soft">{seconds:.2f} s</span></h3>\n'
        f'<div class="player"></div><div class="lanes">{"".join(lanes)}</div>\n'
        f'<details class="all" open><summary>All versions side by side</summary>'
        f'<div class="versions-grid">{"".join(versions)}</div></details>\n'
        + (f'<details class="metrics"><summary>Metrics of this clip</summary>{table}</details>\n' if rows else "")
        + "</article>"
    )


def _pictures(mel: MelSpectrogram, sounds: Mapping[str, Tensor], longest: int) -> dict[str, list[tuple[str, str, str]]]:
    """System to its pictures, (class, words, data URI): the mel, and but for the recording the difference from its mel.

    All are as long as the longest sound, filled up to a whole frame.
    """
    length = -(-longest // mel.hop_length) * mel.hop_length
    device = mel.window.device
    mels = {
        system: mel(torch.nn.functional.pad(audio.detach().to(device).float(), (0, length - len(audio)))[None])[0].cpu()
        for system, audio in sounds.items()
    }
    reference = next(iter(mels.values()))
    # The few loudest bins would leave the rest in the dark; the scale is the recording's, so that a wrong level shows.
    top = float(np.quantile(reference.numpy(), 0.998))
    pictures = {}
    for system, log_mel in mels.items():
        pictures[system] = [("mel", "Mel spectrogram", _uri("image/png", matrix_png(log_mel, top - RANGE, top, "magma")))]
        if log_mel is not reference:
            png = matrix_png((log_mel - reference).abs(), 0.0, DIFFERENCE, "cividis")
            pictures[system].append(("difference", "Difference from the recording", _uri("image/png", png)))
    return pictures


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _training(report: Report) -> list[str]:
    blocks = ['<p class="soft swatches"><b class="first">training</b><b class="second">validation</b></p>']
    for name, path in report.curves.items():
        charts = [
            f"<figure>{svg}<figcaption>{html.escape(value)}</figcaption></figure>"
            for value, svg in curve_charts(name, path).items()
        ]
        shown, more = (f'<div class="charts">{"".join(part)}</div>' for part in (charts[:3], charts[3:]))
        blocks.append(f"<h3>{html.escape(name)}</h3>{shown if charts else '<p>Nothing was logged.</p>'}")
        if len(charts) > 3:
            blocks.append(f'<details class="more"><summary>{len(charts) - 3} more curves</summary>{more}</details>')
    return blocks


def _settings(report: Report) -> str:
    """A row for each setting of any model, a column for each model."""
    facts = {
        name: _flat({"receptive field, samples": model.receptive_field, **(model.config or {}), "info": model.info})
        for name, model in report.models.items()
    }
    settings = dict.fromkeys(setting for values in facts.values() for setting in values)
    rows = [{"setting": key, **{name: values.get(key) for name, values in facts.items()}} for key in settings]
    return f"<details><summary>Configuration</summary>{html_table(rows)}</details>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat
