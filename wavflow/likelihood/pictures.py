"""The picture of a recording's scores: bits and surprise under its spectrogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from wavflow.likelihood.bits import bits_per_sample
from wavflow.likelihood.scoring import Scores
from wavflow.mel import MelSpectrogram
from wavflow.reporting.pictures import mel_axis, write_figure


def score_picture(path: str | Path, scores: Scores, log_mel: Tensor, mel: MelSpectrogram, title: str) -> None:
    """Draws a mel (n_mels, F), bits per sample and the surprise of each frame, on one axis of time."""
    frames = log_mel.shape[-1]
    hop = mel.hop_length / mel.sample_rate
    time = (np.arange(frames) + 0.5) * hop
    figure = Figure(figsize=(11, 6), layout="constrained")
    spectrogram, bits, surprise = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1, 1]})
    spectrogram.imshow(log_mel.cpu().numpy(), extent=(0, frames * hop, 0, 100), origin="lower", aspect="auto", cmap="magma")
    axis = mel_axis(mel)
    spectrogram.set_yticks([100 - y for _, y in axis], [label for label, _ in axis])
    bits.plot(time, bits_per_sample(scores.log_prob).numpy(), color="tab:blue", linewidth=1)
    bits.set_ylabel("bits/sample")
    bits.set_ylim(0, 16)  # what the samples take as they are; a click takes more than there is to see
    surprise.axhline(0, color="0.6", linewidth=0.8)
    surprise.plot(time, scores.surprise.numpy(), color="tab:red", linewidth=1)
    surprise.set_yscale("symlog", linthresh=5)  # a click stands at a hundred, and the rest is to be seen too
    surprise.set_yticks([-100, -10, 0, 10, 100], ["-100", "-10", "0", "10", "100"])
    surprise.set_ylabel("surprise, deviations")
    surprise.set_xlabel("seconds")
    surprise.set_xlim(0, frames * hop)
    for axes in (bits, surprise):
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=13, parse_math=False)
    write_figure(path, figure)
