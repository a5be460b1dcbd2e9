"""Spectrograms as pictures: a figure with axes for the logs of a training, bare ones for the report page.

They use matplotlib's `Figure` objects and never pyplot, so that no global state and no display is touched.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import librosa
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from wavflow.files import atomic_write
from wavflow.mel import MelSpectrogram

FREQUENCIES = (500, 1000, 2000, 4000, 8000, 16000)  # Hz, named beside a mel
LEVELS = 64  # shades of a bare picture: enough for 1 dB each, and a third smaller than with 256


def write_figure(path: str | Path, figure: Figure, dpi: int = 110) -> None:
    """Writes a figure as a PNG, whole or not at all."""
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=dpi)


def spectrogram_picture(path: str | Path, signals: Mapping[str, Tensor | np.ndarray], sample_rate: int) -> None:
    """Draws a log-spectrogram of each signal (T,), one above the other, with one time axis and one range of colors.

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
    write_figure(path, figure)


def alignment_picture(path: str | Path, symbols: Sequence[str], durations: Tensor) -> None:
    """Draws which frames each of S symbols takes, from their `durations` (S,) in frames."""
    ends = durations.cumsum(0)
    figure = Figure(figsize=(11, max(2.5, 0.14 * len(symbols))), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(symbols)), durations, left=ends - durations, height=1.0)
    axes.set_yticks(range(len(symbols)), symbols, fontsize=7, parse_math=False)
    axes.set_ylim(len(symbols) - 0.5, -0.5)
    axes.set_xlabel("frames")
    write_figure(path, figure)


def _level(name: str, signal: Tensor | np.ndarray, longest: float) -> np.ndarray:
    """Spectrogram (bins, frames) in dB re a full-scale sine, fine enough for the width of the picture and no finer."""
    audio = torch.as_tensor(signal).detach().cpu().float()
    if audio.dim() != 1 or audio.numel() == 0:
        raise ValueError(f"Signal {name!r} must be one clip (T,) with T >= 1, got shape {tuple(audio.shape)}: cut it out.")
    window = torch.hann_window(1024, dtype=torch.float32)
    hop_length = max(64, math.ceil(longest / 1600))
    spectrum = torch.stft(audio, 1024, hop_length, window=window, pad_mode="constant", return_complex=True)
    return (20 * (2 * spectrum.abs() / window.sum()).clamp(min=1e-6).log10()).numpy()


def matrix_png(values: Tensor, low: float, high: float, colors: str) -> bytes:
    """A matrix (rows, columns) as a PNG of one pixel a value, row 0 at the bottom: a page stretches it as it needs.

    Values up to `low` have the first color of a matplotlib color map, those from `high` on the last.
    """
    steps = ((values.detach().cpu().double() - low) / (high - low) * LEVELS).floor().clamp(0, LEVELS - 1)
    picture = Image.fromarray(steps.flip(0).to(torch.uint8).numpy())
    palette = matplotlib.colormaps[colors](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def mel_axis(mel: MelSpectrogram) -> list[tuple[str, float]]:
    """Frequencies and where they lie in a picture of one row per band."""
    low, high = librosa.hz_to_mel([mel.f_min, mel.f_max])
    bands = [(hertz, (librosa.hz_to_mel(hertz) - low) / (high - low) * (mel.n_mels + 1) - 0.5) for hertz in FREQUENCIES]
    return [(f"{hertz / 1000:g} kHz", 100 - 100 * band / mel.n_mels) for hertz, band in bands if 0 < band < mel.n_mels]
