"""Mels of another convention: converted where the convention is named, recognized where no audio on [-1, 1] has such a mel.

A mel of ours, whatever the audio, is at least the log of `MEL_FLOOR`, and its power is at most that of full-scale audio. For
frame f, bands m and spectrum X,

    sum over every second m of exp(2 mel[m, f]) / |filterbank[m]|^2  <=  sum_k |X[k]|^2  <=  n_fft / 2 * sum w^2,

by Cauchy-Schwarz, as bands that are no neighbors do not overlap, and by Parseval.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from wavflow.arguments import choose
from wavflow.mel import MEL_FLOOR, MelSpectrogram

SCALES = {
    "ln": lambda mel: mel,
    "log10": lambda mel: mel * math.log(10),
    "db": lambda mel: mel * (math.log(10) / 20),
    "linear": lambda mel: mel.clamp(min=MEL_FLOOR).log(),
}
"""From a scale of magnitudes to their natural log."""

FULL_SCALE = 3.0
"""The most power, relative to full-scale audio, of the loudest tenth of frames; above 1, since predicted mels err."""

BELOW_FLOOR = 2.0
"""How far below the floor a predicted mel may go, in nats."""


class MelScale:
    """Converts a mel to the natural log that our models take: `log(scale^-1(mel * std + mean))`.

    Values below the floor of our mels come out at the floor.

    Args:
        scale: "ln", "log10", "db" (20 log10) or "linear", of the magnitudes that the model's own mel has.
        mean: What was subtracted when the mel was normalized: a number, or one for each band (n_mels,).
        std: What it was then divided by, the root of the variance: likewise.

    Raises:
        ValueError: There is no such scale, a mean or deviation is not finite, or a deviation not above 0.
    """

    def __init__(self, scale: str = "ln", mean: float | Tensor = 0.0, std: float | Tensor = 1.0) -> None:
        self.name, self._to_ln = scale, choose("mel_scale", scale, SCALES)
        self.mean, self.std = (torch.as_tensor(value, dtype=torch.float64) for value in (mean, std))
        for name, value in (("mel_mean", self.mean), ("mel_std", self.std)):
            if value.ndim > 1 or not value.isfinite().all() or (name == "mel_std" and (value <= 0).any()):
                needed = "finite" if name == "mel_mean" else "above 0"
                raise ValueError(f"`{name}` must be one number, or one for each band, {needed}, got {value.tolist()}.")

    def __call__(self, mel: Tensor) -> Tensor:
        """Converts a mel (..., n_mels, F).

        Raises:
            ValueError: It has another number of bands than the mean or deviation.
        """
        mean, std = (value.to(mel.device).reshape(-1, 1) for value in (self.mean, self.std))
        for name, value in (("mel_mean", mean), ("mel_std", std)):
            if len(value) not in (1, mel.shape[-2]):
                raise ValueError(f"`{name}` must be one number, or one for each of {mel.shape[-2]} bands, got {len(value)}.")
        return self._to_ln(mel * std + mean).clamp(min=math.log(MEL_FLOOR)).to(mel.dtype)


def least_power(mel: Tensor, spectrogram: MelSpectrogram) -> Tensor:
    """Returns the least power (..., F) that audio of a mel (..., n_mels, F) can have; 1 is the most that any audio has."""
    squares = spectrogram.filterbank.square().sum(dim=1).to(mel.device, torch.float32)
    power = (2 * mel.float()).exp() / squares[:, None]
    most = spectrogram.n_fft / 2 * float(spectrogram.window.square().sum())
    return torch.maximum(power[..., ::2, :].sum(dim=-2), power[..., 1::2, :].sum(dim=-2)) / most


def audible(mel: Tensor, spectrogram: MelSpectrogram) -> Tensor:
    """Returns a sampled mel (..., n_mels, F) whose frames beyond full scale are made as quiet as full scale.

    A text model that has learned little may sample such frames, and vocoders refuse them, see `check_scale`.
    """
    mel = mel.clamp_max(10.0)  # beyond any sound; its power is finite in float32
    excess = least_power(mel, spectrogram).clamp_min(1.0).log() / 2
    return (mel - excess.unsqueeze(-2)).clamp_min(math.log(MEL_FLOOR))


def check_scale(mel: Tensor, spectrogram: MelSpectrogram) -> None:
    """Raises ValueError where a mel (B, n_mels, F) can't be of that spectrogram, with what it looks like instead."""
    if not mel.numel() or (fault := _fault(mel, spectrogram)) is None:
        return
    raise ValueError(
        f"`mel` must be the natural log of magnitudes of audio on [-1, 1], as `MelSpectrogram` makes it, but {fault}. "
        f"{_likely(mel, spectrogram)}"
    )


def warn_of_log10(mel: Tensor, spectrogram: MelSpectrogram, stacklevel: int = 2) -> None:
    """Warns where a mel (B, n_mels, F) can be of that spectrogram, but looks like a decadic log of one.

    A decadic log lies between -5 and 1.4. So does the natural log of loud noise; but of noise, a decadic log fluctuates 2.3
    times less from frame to frame than a natural one. Mels shorter than 32 frames are not looked at.
    """
    if mel.numel() and mel.shape[-1] >= 32 and _looks_like_log10(mel, spectrogram):
        warnings.warn(
            "`mel` looks like a decadic log, this model takes the natural log of magnitudes: convert it by mel_scale=log10, in "
            "Python `MelScale('log10')(mel)`; or say that it is what it should be by mel_scale=ln.",
            stacklevel=stacklevel + 1,
        )


def _fault(mel: Tensor, spectrogram: MelSpectrogram) -> str | None:
    least, floor = float(mel.min()), math.log(MEL_FLOOR)
    if least < floor - BELOW_FLOOR:
        return f"its least value is {least:.4g}, where magnitudes below {MEL_FLOOR:g} count as {floor:.1f}"
    if least >= 0.0:
        return f"it has no value below 0 (the least is {least:.4g}), as if all bands of all frames were at full scale"
    if (frames := mel.shape[-1]) >= 8:  # else one frame that a prediction misses might stop a stream
        loud = float(least_power(mel, spectrogram).kthvalue(int(0.9 * frames)).values.max())
        if loud > FULL_SCALE:
            return f"a tenth of its frames have at least {loud:.3g} times the power of full-scale audio"
    return None


def _likely(mel: Tensor, spectrogram: MelSpectrogram) -> str:
    """Returns what a mel looks like that can't be of a spectrogram, and the option that says so."""
    least, middle = float(mel.min()), float(mel.float().median())
    say = "say so by mel_scale={0}, in Python `MelScale('{0}')(mel)`."
    if least >= 0.0 and middle < 0.1 and _fault(SCALES["linear"](mel), spectrogram) is None:
        return f"It looks like linear magnitudes: {say.format('linear')}"
    if middle < -20.0 and _fault(MelScale("db")(mel), spectrogram) is None:
        return f"It looks like decibels: {say.format('db')}"
    if least < math.log(MEL_FLOOR) and _fault(MelScale("ln")(mel), spectrogram) is None:
        return f"If it is a natural log with another floor, {say.format('ln')} Of a power, halve it first."
    int16 = math.log(32768)
    if least > int16 + math.log(MEL_FLOOR) - BELOW_FLOOR and middle > 1.0 and _fault(mel - int16, spectrogram) is None:
        return f"It looks like that of int16 audio: divide the audio by 32768, or say mel_scale=ln mel_mean={-int16:.4f}."
    return (
        f"It looks normalized, to {least:.3g} ... {float(mel.max()):.3g}: say from which scale and by what, mel_scale=ln, "
        "log10, db or linear with mel_mean=... and mel_std=..., numbers or files, in Python `MelScale(scale, mean, std)(mel)`."
    )


def _looks_like_log10(mel: Tensor, spectrogram: MelSpectrogram) -> bool:
    converted = SCALES["log10"](mel.float())
    if float(converted.min()) < math.log(MEL_FLOOR) - 0.02 or float(least_power(converted, spectrogram).max()) > 1.0:
        return False
    mean = mel.float().mean(dim=1)
    low, high = torch.quantile(mean, mean.new_tensor([0.05, 0.95]), dim=1)
    if not (high - low > 0.9).any():  # of a recording, not of one steady sound
        return False
    lag = -(-spectrogram.n_fft // spectrogram.hop_length)  # frames that have no sample in common
    own = MelSpectrogram(**spectrogram.spec)
    noise = own(torch.randn(1, 500 * own.hop_length, generator=torch.Generator().manual_seed(0), dtype=torch.float32))
    usual = _change(noise, lag).mean(dim=-1, keepdim=True).to(mel.device)
    # by blocks of 16 bands and 8 frames: the stillest ones of a recording hold its noise
    size = (min(16, own.n_mels), 8)
    blocks = torch.nn.functional.avg_pool2d(_change(mel.float(), lag) / usual, size, (size[0] // 2 or 1, 4))
    return float(torch.quantile(blocks.flatten()[: 2**20], 0.01)) < 0.6**2


def _change(mel: Tensor, lag: int) -> Tensor:
    return (mel[..., lag:] - mel[..., :-lag]).square()
