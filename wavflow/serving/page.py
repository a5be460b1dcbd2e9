"""The page at `/`, and the report that it shows: a recording, what a model draws from its mel, and Griffin-Lim."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

import torch
from torch import Tensor

from wavflow.evaluation.anchors import griffin_lim
from wavflow.evaluation.comparison import RECORDING
from wavflow.evaluation.report.folder import Report
from wavflow.evaluation.report.page import render_page
from wavflow.evaluation.systems import GRIFFIN_LIM
from wavflow.likelihood.bits import bits_per_sample
from wavflow.likelihood.scoring import overall
from wavflow.reporting.assets import asset
from wavflow.vocoder import PASSES, Vocoder

LONGEST = 30.0  # seconds of a recording that a page shows


def start_page(seconds: float) -> str:
    """Returns the page at `/`, which takes recordings of so many seconds."""
    page, script, style = (asset(name, "wavflow.serving") for name in ("try.html", "try.js", "try.css"))
    return Template(page).substitute(
        style=asset("page.css") + style,
        script=asset("theme.js") + asset("wav.js") + script,
        seconds=f"{seconds:g}",
        passes=PASSES,
    )


@torch.no_grad()
def report_page(
    name: str,
    vocoder: Vocoder,
    audio: Tensor,
    mel: Tensor,
    drawn: Tensor,
    passes: int,
    scores: Mapping[str, tuple[Tensor, Tensor]],
) -> str:
    """Returns the report of one recording.

    Args:
        name: Of the vocoder.
        vocoder: Drew.
        audio: The recording (1, T).
        mel: Its mel (1, n_mels, F).
        drawn: The draw (1, T), before any pass of the equalizer.
        passes: Of the equalizer.
        scores: Name of a model to the log-density of each sample (F, hop_length) and the surprise of each frame (F,).
    """
    sounds = {RECORDING: audio[0], f"{name}, 0 passes" if passes else name: drawn[0]}
    if passes:
        sounds[name] = vocoder.equalizer(drawn, mel, passes)[0]
    sounds[GRIFFIN_LIM] = griffin_lim(mel[0].cpu(), vocoder.mel)
    notes = [
        f"{scorer}: {bits_per_sample(float(nats.mean())):.2f} bits per sample; the strangest frames surprise it by "
        f"{overall(surprise):.1f} standard deviations"
        for scorer, (nats, surprise) in scores.items()
    ]
    clip = "What you sent"
    report = Report(
        title=f"A recording and {name}",
        sample_rate=vocoder.sample_rate,
        notes=notes,
        sounds={clip: {system: sound.cpu() for system, sound in sounds.items()}},
        log_probs={clip: {scorer: nats.flatten() for scorer, (nats, _) in scores.items()}},
    )
    return render_page(report)
