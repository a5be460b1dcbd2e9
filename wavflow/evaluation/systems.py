"""Teacher and student beside the recording and simple anchors, on the same held-out clips."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wavflow.evaluation.metrics import (
    Interval,
    bits_per_sample,
    flac_bits,
    griffin_lim,
    level_db,
    log_spectral_distance,
    mean_interval,
    mel_l1,
    rms_ratio,
    voicing_f1,
)
from wavflow.flows import Whitening
from wavflow.losses import DensityDistillation, MultiResolutionSTFTLoss
from wavflow.models import build
from wavflow.vocoder import Vocoder

RECORDING, GRIFFIN_LIM, TEACHER, STUDENT = "recording", "Griffin-Lim", "teacher", "student"
ENVELOPE = "envelope alone"  # the whitening without its pitch: noise through it whispers
WHITENING = "whitening alone"  # noise through it is the untrained student


class Clip(NamedTuple):
    """A held-out recording: dequantised audio (1, T) and its mel (1, n_mels, F), T = F * hop_length."""

    name: str
    audio: Tensor
    mel: Tensor


class Rendering(NamedTuple):
    """What one system made of the clips: audio (T,) per clip, and how many times faster than real time."""

    audio: list[Tensor]
    speed: float


def render(
    clips: Sequence[Clip],
    teacher: Vocoder | None,
    student: Vocoder | None,
    temperature: float = 1.0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
) -> dict[str, Rendering]:
    """Renders every clip from its mel with the anchors, the teacher (all clips at once, sample by sample) and the student.

    Noise is the same for every system that takes noise: clip i has seed i.
    """
    model = teacher or student
    assert model is not None
    lengths = [clip.audio.shape[-1] for clip in clips]
    systems: dict[str, Callable[[], list[Tensor]]] = {
        GRIFFIN_LIM: lambda: [griffin_lim(clip.mel[0], model.mel) for clip in progress(clips)]
    }
    for name, whitening in _whitenings(model).items():
        systems[name] = lambda whitening=whitening: [
            whitening.inverse(_noise(model, clip, i)[None] * temperature, clip.mel)[0][0, 0] for i, clip in enumerate(clips)
        ]
    if teacher is not None:
        systems[TEACHER] = lambda: _draw_together(teacher, clips, temperature)
    if student is not None:
        systems[STUDENT] = lambda: [
            student.sample(clip.mel, _noise(student, clip, i), temperature)[0] for i, clip in enumerate(progress(clips))
        ]
    renderings = {RECORDING: Rendering([clip.audio[0].cpu() for clip in clips], math.nan)}
    for name, draw in systems.items():
        started = time.perf_counter()
        audio = [signal.float().cpu() for signal in draw()]
        renderings[name] = Rendering(audio, sum(lengths) / model.sample_rate / (time.perf_counter() - started))
    return renderings


def judge(
    clips: Sequence[Clip], renderings: dict[str, Rendering], model: Vocoder, voicing: bool = True
) -> list[dict[str, Any]]:
    """Returns one row of figures per clip and system, against the recording."""
    spectral = MultiResolutionSTFTLoss()
    rows = []
    for name, rendering in renderings.items():
        for clip, audio in zip(clips, rendering.audio, strict=True):
            reference = clip.audio[0].cpu()
            row = {
                "clip": clip.name,
                "system": name,
                "level dB": level_db(audio, reference),
                "RMS ratio": rms_ratio(audio, reference),
                "M-STFT": spectral(audio[None], reference[None]).item(),
                "LSD dB": log_spectral_distance(audio, reference),
                "mel L1": mel_l1(audio, reference, model.mel),
            }
            if voicing:
                row["voicing F1"] = voicing_f1(audio, reference, model.sample_rate)
            rows.append(row)
    return rows


def summarise(rows: list[dict[str, Any]], renderings: dict[str, Rendering]) -> list[dict[str, Any]]:
    """Returns one row per system: each figure's mean with its 95 % interval over clips, and the speed."""
    summary = []
    for name, rendering in renderings.items():
        own = [row for row in rows if row["system"] == name]
        figures = {key: mean_interval([row[key] for row in own]) for key in own[0] if key not in ("clip", "system")}
        summary.append({"system": name, **figures, "x real time": rendering.speed})
    return summary


@torch.no_grad()
def likelihoods(clips: Sequence[Clip], teacher: Vocoder) -> list[dict[str, Any]]:
    """Returns rows of held-out nats and bits per sample: FLAC, the whitening (envelope, and with pitch), the teacher.

    The whitening alone is a Gaussian with one scale, fitted to these very clips in its favour.
    """
    n = sum(clip.audio.shape[-1] for clip in clips)
    flac = sum(flac_bits(clip.audio[0], teacher.sample_rate) * clip.audio.shape[-1] for clip in clips) / n
    rows = [{"likelihood of": "FLAC", "nats/sample": math.log(32768.0) - flac * math.log(2.0), "bits/sample": flac}]
    for name, whitening in _whitenings(teacher).items():
        whitened = [whitening(clip.audio[None], clip.mel) for clip in clips]
        scale = torch.cat([u.flatten() for u, _ in whitened]).square().mean().sqrt()
        entropy = 0.5 * math.log(2.0 * math.pi * math.e) + math.log(float(scale))
        rows.append(_likelihood_row(name, [float(log_det.mean()) - entropy for _, log_det in whitened], clips))
    nats = [float(teacher.log_prob(clip.audio, clip.mel).mean()) for clip in clips]
    return [*rows, _likelihood_row(TEACHER, nats, clips)]


@torch.no_grad()
def divergences(clips: Sequence[Clip], teacher: Vocoder, student: Vocoder) -> list[dict[str, Any]]:
    """Returns rows of KL(student || teacher) in nats per sample with its interval over clips, untrained and trained.

    By the path estimator, whose draw is a whole clip: the same for every pair of densities.
    """
    density = DensityDistillation("path")
    rows = []
    untrained = build(student.config).to(student.device).eval()
    for name, model in ((f"untrained {STUDENT}", untrained), (STUDENT, student)):
        parts: dict[str, list[float]] = {"KL": [], "entropy": [], "cross-entropy": []}
        for i, clip in enumerate(clips):
            draw = model.draw(clip.mel, _noise(model, clip, i))
            values = density(draw, model.flow, teacher.flow, teacher.conditioning(clip.mel))
            for part, value in zip(parts.values(), values, strict=False):
                part.append(float(value.mean()))
        rows.append({"divergence of": name, **{key: mean_interval(value) for key, value in parts.items()}})
    return rows


def _whitenings(model: Vocoder) -> dict[str, Whitening]:
    """Returns a model's whitening, and where it uses the pitch the same without it."""
    if model.whitening is None:
        return {}
    plain = Whitening(model.mel, model.whitening.order, pitch=False).to(model.device)
    return ({ENVELOPE: plain} if model.whitening.pitch else {}) | {WHITENING: model.whitening}


def _likelihood_row(name: str, nats: list[float], clips: Sequence[Clip]) -> dict[str, Any]:
    """Weights clips by their length, as a codec would; the interval is over clips."""
    lengths = [clip.audio.shape[-1] for clip in clips]
    mean = sum(value * length for value, length in zip(nats, lengths, strict=True)) / sum(lengths)
    half = mean_interval(nats).half_width
    return {
        "likelihood of": name,
        "nats/sample": Interval(mean, half, len(nats)),
        "bits/sample": Interval(float(bits_per_sample(mean)), half / math.log(2.0), len(nats)),
    }


def _noise(model: Vocoder, clip: Clip, seed: int) -> Tensor:
    return model.noise(clip.mel, torch.Generator().manual_seed(seed))


def _draw_together(model: Vocoder, clips: Sequence[Clip], temperature: float) -> list[Tensor]:
    """Draws all clips as one batch, padded to the longest: a step costs nearly the same for many as for one."""
    frames = max(clip.mel.shape[-1] for clip in clips)
    samples = frames * model.hop_length
    mel = torch.cat([torch.nn.functional.pad(c.mel, (0, frames - c.mel.shape[-1]), mode="replicate") for c in clips])
    noise = [_noise(model, clip, i) for i, clip in enumerate(clips)]
    noise = torch.cat([torch.nn.functional.pad(z, (0, samples - z.shape[-1])) for z in noise])
    audio = model.sample(mel, noise, temperature)
    return [row[: clip.audio.shape[-1]] for row, clip in zip(audio, clips, strict=True)]
