"""How surprising a recording is to a model: log-likelihood, and by how much it is not what the model itself expects.

Nats per sample depend on the content first of all: noise costs more than silence, and a fault that shows in the mel is what
the model expects. The noise z that the model's flow makes of the audio does not depend on the content: for audio from the
model's own density it is base noise, loud or soft, and the mean of `-log base(z)` is the base's entropy. So the surprise of a
frame is

    sum_t (-log base(z[t]) - entropy) / sqrt(T * variance),

in standard deviations. It is negative where the audio is more regular than it should be, as in a dropout.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wavflow.audio import read_audio
from wavflow.distributions import Distribution, Gaussian, Logistic
from wavflow.mel import MelSpectrogram
from wavflow.segments import segments
from wavflow.vocoder import Vocoder

VARIANCE: dict[type[Distribution], float] = {Gaussian: 0.5, Logistic: 4.0 - math.pi**2 / 3.0}  # of -log base(z), in nats^2
LONE, STRANGEST = 1, 5


class Scores(NamedTuple):
    """Of each frame of a recording (F,), on the CPU."""

    log_prob: Tensor  # mean of its samples, in nats per sample
    surprise: Tensor  # in standard deviations


def read(path: Path, model: Vocoder, spectrogram: MelSpectrogram | None = None) -> tuple[Tensor, Tensor]:
    """Reads a file as the model takes it: dequantized audio (1, F * hop_length) and its mel, or `spectrogram`, (1, n_mels, F).

    The noise of one 16-bit step depends on the file's name alone, so the scores of a file are always the same. A last
    incomplete frame is left out, but a file shorter than one is filled up with silence.
    """
    audio, _ = read_audio(path, model.sample_rate)
    frames = model.mel.frames_of(len(audio))
    audio = torch.nn.functional.pad(audio, (0, max(0, model.hop_length - len(audio))))[None]
    with torch.no_grad():
        mel = (spectrogram or model.mel)(audio.to(model.device))[..., :frames]
    seed = int.from_bytes(hashlib.sha256(path.name.encode(errors="surrogateescape")).digest()[:4], "big")
    audio = audio[:, : frames * model.hop_length]
    noise = torch.rand(audio.shape, generator=torch.Generator().manual_seed(seed), dtype=audio.dtype) - 0.5
    return (audio + noise / 32768).to(model.device), mel


def score(model: Vocoder, audio: Tensor, mel: Tensor, speaker: Tensor | None = None, segment_frames: int = 512) -> Scores:
    """Returns the scores of audio, see `score_samples`."""
    return joined(score_samples(model, audio, mel, speaker, segment_frames))


def joined(parts: Iterable[tuple[Tensor, Tensor]]) -> Scores:
    """Returns the scores of a recording from those of its segments, as `score_samples` yields them."""
    return Scores(*map(torch.cat, zip(*((nats.mean(dim=1), surprise) for nats, surprise in parts), strict=True)))


@torch.no_grad()
def score_samples(
    model: Vocoder, audio: Tensor, mel: Tensor, speaker: Tensor | None = None, segment_frames: int = 512
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores audio, a segment at a time: each starts as far before itself as the model looks back.

    Args:
        model: One that scores in parallel.
        audio: (1, F * hop_length), dequantized: without, digital silence has no density.
        mel: (1, n_mels, F).
        speaker: Ids (1,), for a model with speakers.
        segment_frames: Frames to a segment; bounds the memory.

    Yields:
        Of the next frames the log-density of each sample (F, hop_length), in nats, and the surprise (F,), on the CPU.

    Raises:
        ValueError: For a model that scores step by step, or where the shapes do not fit.
    """
    check_scores(model)
    hop, frames = model.hop_length, mel.shape[-1]
    if audio.shape != (1, frames * hop):
        raise ValueError(f"`audio` must be (1, {frames * hop}) for {frames} frames, got {tuple(audio.shape)}: cut or pad it.")
    base = type(model.flow.base)
    before, after = model.flow.transform.context_of("forward")
    before += 0 if model.whitening is None else model.whitening.context_of("forward")[0]
    left, right = (-(-int(samples) // hop) + 3 for samples in (before, after))  # features and filters mix three frames
    for segment in segments(frames, segment_frames, left, right):
        part, heard = mel[..., segment.read()], audio[:, segment.read(hop)]
        u, whitened = model.whiten(heard, part)
        z, log_det = model.flow.transform(u, model.conditioning(part, speaker))
        likely = model.flow.base_log_prob(z)
        by_frame = [
            x[0, segment.keep(hop)].double().cpu().unflatten(0, (-1, hop)) for x in (likely + log_det + whitened, likely)
        ]
        surprise = (-by_frame[1] - float(model.flow.base.entropy())).sum(dim=1) / math.sqrt(hop * VARIANCE[base])
        yield by_frame[0], surprise


def check_scores(model: Vocoder) -> None:
    """Raises ValueError unless a model scores in one pass."""
    if not model.scores_in_parallel:
        raise ValueError("`model` must score in one pass, as a teacher does, got a student: name its teacher.")


def overall(surprise: Tensor) -> float:
    """Returns one score of a recording: the geometric mean of its strangest frames, from the second on to the sixth.

    A fault makes several frames strange: a few very much (a dropout), or all a little (noise). A single strange frame tells
    less: clean recordings have one, too, where the reader's lips part or a table creaks.
    """
    strangest = surprise.abs().sort(descending=True).values
    strangest = strangest[LONE:] if len(strangest) > LONE else strangest
    return float(strangest[:STRANGEST].clamp_min(1e-6).log().mean().exp())
