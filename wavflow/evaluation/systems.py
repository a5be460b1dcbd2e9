"""Models, the recording and simple anchors on the same held-out clips: what they generate, and their likelihoods."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wavflow.audio_density import check_pair
from wavflow.clips import MissingLibraryError
from wavflow.evaluation.anchors import griffin_lim, random_phase, world
from wavflow.evaluation.comparison import RECORDING, Progress, parallel
from wavflow.flows import Whitening
from wavflow.likelihood.bits import bits_per_sample, flac_bits
from wavflow.losses import DensityDistillation
from wavflow.mel import MelSpectrogram
from wavflow.models import build
from wavflow.reporting.intervals import Interval, mean_interval
from wavflow.vocoder import PASSES, Vocoder

GRIFFIN_LIM, WORLD, RANDOM_PHASE = "Griffin-Lim", "WORLD", "random phase"
ENVELOPE = "envelope alone"  # the whitening without its pitch: noise through it whispers
WHITENING = "whitening alone"  # noise through it is an untrained student without pulses
PULSES = "pulses alone"  # the untrained student with a harmonic source: pulses and noise through the whitening
NOT_MODELS = (RECORDING, GRIFFIN_LIM, WORLD, RANDOM_PHASE, ENVELOPE, WHITENING, PULSES)
Models = Mapping[str, Vocoder]


class Clip(NamedTuple):
    """A held-out recording: dequantized audio (1, T), its mel (1, n_mels, F), T = F * hop_length, and speaker ids (1,)."""

    name: str
    audio: Tensor
    mel: Tensor
    speaker: Tensor | None = None


class Rendering(NamedTuple):
    """What one system made of the clips: audio (T,) per clip, and how many times faster than real time."""

    audio: list[Tensor]
    speed: float


def render(
    clips: Sequence[Clip],
    models: Models,
    temperature: float = 1.0,
    jobs: int | None = None,
    progress: Progress = lambda clips, system: clips,
    passes: int = PASSES,
) -> dict[str, Rendering]:
    """Renders every clip by the anchors, and from its mel by the models, which must share one mel convention.

    The models' audio is equalized, see `MelEqualizer`; what it was before is returned, too. A model that samples step by step
    renders all clips as one batch. Noise is the same for all systems: clip i has seed i. Anchors are made in `jobs` processes
    of one thread each; an anchor whose library is missing is left out.
    """
    model = next(iter(models.values()))
    mel = copy.deepcopy(model.mel).cpu()
    tasks = [(clip.audio[0].cpu(), clip.mel[0].cpu(), mel, i) for i, clip in enumerate(clips)]
    anchors = [made for _, made in zip(progress(clips, "anchors"), parallel(_anchors, tasks, jobs), strict=True)]
    renderings = {RECORDING: Rendering([clip.audio[0].float().cpu() for clip in clips], math.nan)}
    lengths = [clip.audio.shape[-1] / model.sample_rate for clip in clips]
    for name in anchors[0]:
        speeds = [length / made[name][1] for length, made in zip(lengths, anchors, strict=True)]
        # The median: a process's first call loads and compiles.
        renderings[name] = Rendering([made[name][0] for made in anchors], statistics.median(speeds))

    systems: dict[str, Callable[[int, Clip], Tensor]] = {
        name: functools.partial(_noise_through, whitening, model, temperature) for name, whitening in _whitenings(model).items()
    }
    if sources := [own for own in models.values() if own.source is not None]:
        systems[PULSES] = functools.partial(_pulses, sources[0], temperature)
    systems |= {name: functools.partial(_sample, own, temperature) for name, own in models.items()}
    passes = passes if model.mel.n_mels else 0
    for name, sample in systems.items():
        started = time.perf_counter()
        if name in models and not models[name].draws_in_parallel:
            raw = _sample_together(models[name], clips, temperature)
        else:
            raw = [sample(i, clip) for i, clip in enumerate(progress(clips, name))]
        seconds = time.perf_counter() - started
        unequalized = Rendering([signal.float().cpu() for signal in raw], sum(lengths) / seconds)
        if not passes or name in (ENVELOPE, WHITENING):
            renderings[name] = unequalized
            continue
        started = time.perf_counter()
        pairs = zip(raw, clips, strict=True)
        equalized = [model.equalizer(signal[None], clip.mel, passes)[0].float().cpu() for signal, clip in pairs]
        both = unequalized, Rendering(equalized, sum(lengths) / (seconds + time.perf_counter() - started))
        names = (name, f"{name}, {passes} passes") if name == PULSES else (f"{name}, 0 passes", name)
        renderings |= zip(names, both, strict=True)
    return renderings


def _noise_through(whitening: Whitening, model: Vocoder, temperature: float, seed: int, clip: Clip) -> Tensor:
    return whitening.inverse(_noise(model, clip, seed)[None] * temperature, clip.mel)[0][0, 0]


def _pulses(model: Vocoder, temperature: float, seed: int, clip: Clip) -> Tensor:
    return model.unwhiten(model.add_pulses(_noise(model, clip, seed)[None] * temperature, clip.mel)[0], clip.mel)[0][0]


def _sample(model: Vocoder, temperature: float, seed: int, clip: Clip) -> Tensor:
    return model.sample(clip.mel, _noise(model, clip, seed), temperature, speaker=_speaker(model, clip), passes=0)[0]


def _anchors(audio: Tensor, log_mel: Tensor, mel: MelSpectrogram, seed: int) -> dict[str, tuple[Tensor, float]]:
    """Returns anchor to audio (T,) of one clip, and the seconds that it took."""
    anchors: dict[str, Callable[[], Tensor]] = {
        GRIFFIN_LIM: lambda: griffin_lim(log_mel, mel),
        WORLD: lambda: world(audio, mel.sample_rate),
        RANDOM_PHASE: lambda: random_phase(log_mel, mel, torch.Generator().manual_seed(seed)),
    }
    anchors = anchors if mel.n_mels else {WORLD: anchors[WORLD]}
    made = {}
    for name, make in anchors.items():
        started = time.perf_counter()
        with contextlib.suppress(MissingLibraryError):
            made[name] = make().float(), time.perf_counter() - started
    return made


@torch.no_grad()
def likelihoods(clips: Sequence[Clip], models: Models) -> tuple[list[dict[str, Any]], dict[str, dict[str, Tensor]]]:
    """Returns rows of held-out nats and bits per sample, and clip to model to nats of each sample (T,).

    The rows: FLAC, the whitening (envelope, and with pitch), every model that scores in one pass. The whitening alone is
    a Gaussian with one scale, which is fitted to these very clips, in its favor.
    """
    model = next(iter(models.values()))
    n = sum(clip.audio.shape[-1] for clip in clips)
    flac = sum(flac_bits(clip.audio[0], model.sample_rate) * clip.audio.shape[-1] for clip in clips) / n
    rows = [{"likelihood of": "FLAC", "nats/sample": math.log(32768.0) - flac * math.log(2.0), "bits/sample": flac}]
    for name, whitening in _whitenings(model).items():
        whitened = [whitening(clip.audio[None], clip.mel) for clip in clips]
        scale = torch.cat([u.flatten() for u, _ in whitened]).square().mean().sqrt()
        entropy = 0.5 * math.log(2.0 * math.pi * math.e) + math.log(float(scale))
        rows.append(_likelihood_row(name, [float(log_det.mean()) - entropy for _, log_det in whitened], clips))
    curves: dict[str, dict[str, Tensor]] = {clip.name: {} for clip in clips}
    for name, own in models.items():
        if own.scores_in_parallel:
            nats = [own.log_prob(clip.audio, clip.mel, _speaker(own, clip))[0].cpu() for clip in clips]
            rows.append(_likelihood_row(name, [float(curve.mean()) for curve in nats], clips))
            for clip, curve in zip(clips, nats, strict=True):
                curves[clip.name][name] = curve
    return rows, curves


@torch.no_grad()
def divergences(clips: Sequence[Clip], teacher: Vocoder, models: Models) -> list[dict[str, Any]]:
    """Returns rows of KL(model || teacher) in nats per sample with its interval over clips, untrained and trained.

    For every model that draws in one pass and shares the teacher's mel and whitening, on a draw as long as the clip, by the
    path estimator, which fits every pair of densities.
    """
    density, rows, seen = DensityDistillation("path"), list[dict[str, Any]](), list[dict[str, Any]]()
    for name, own in models.items():
        if not own.draws_in_parallel:
            continue
        try:
            check_pair(own, teacher)
        except ValueError:  # of another mel or whitening
            continue
        rivals = [(name, own)]
        if own.config is not None and own.config not in seen:
            rivals.insert(0, (f"untrained {name}", build(own.config).to(own.device).eval()))
            seen.append(own.config)
        for label, model in rivals:
            parts = []  # KL, entropy and cross-entropy of each clip
            for i, clip in enumerate(clips):
                draw = model.draw(clip.mel, _noise(model, clip, i), _speaker(model, clip))
                cond = teacher.conditioning(clip.mel, _speaker(teacher, clip))
                parts.append([float(value.mean()) for value in density(draw, model.flow, teacher.flow, cond)])
            intervals = map(mean_interval, zip(*parts, strict=True))
            rows.append({"divergence of": label} | dict(zip(("KL", "entropy", "cross-entropy"), intervals, strict=False)))
    return rows


def _whitenings(model: Vocoder) -> dict[str, Whitening]:
    """Returns a model's whitening; where it uses the pitch, also the same without pitch."""
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
        "bits/sample": Interval(bits_per_sample(mean), half / math.log(2.0), len(nats)),
    }


def _noise(model: Vocoder, clip: Clip, seed: int) -> Tensor:
    return model.noise(clip.mel, torch.Generator().manual_seed(seed))


def _speaker(model: Vocoder, clip: Clip) -> Tensor | None:
    return None if model.speakers is None else clip.speaker


def _sample_together(model: Vocoder, clips: Sequence[Clip], temperature: float) -> list[Tensor]:
    """Samples all clips as one batch, padded to the longest: a step costs nearly the same for many as for one."""
    frames = torch.arange(max(clip.mel.shape[-1] for clip in clips), device=clips[0].mel.device)
    mel = torch.cat([clip.mel[..., frames.clamp(max=clip.mel.shape[-1] - 1)] for clip in clips])
    noise = pad_sequence([_noise(model, clip, i)[0] for i, clip in enumerate(clips)], batch_first=True)
    speaker = None if model.speakers is None else torch.cat([clip.speaker for clip in clips if clip.speaker is not None])
    audio = model.sample(mel, noise, temperature, speaker=speaker, passes=0)
    return [row[: clip.audio.shape[-1]] for row, clip in zip(audio, clips, strict=True)]
