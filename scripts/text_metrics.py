"""How near a text model is to recordings of held-out sentences: density, the mel's statistics, durations, voicing.

    python scripts/text_metrics.py --run runs/text/voice --path corpus/ --table list.csv --speaker kathleen

The log-density is that of a recorded mel given its text, by the model, and by a diagonal Gaussian for each symbol, whose mean
and deviation are those of the training frames that the model aligns with it. The sentences are then spoken, at a pace of
their own: dynamic time warping lays their mels along the recordings' before the voicing is compared.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import torch
from text_runs import load, options
from torch import Tensor

import wavflow
from wavflow.data.utterances import even_frames
from wavflow.evaluation.pitch import HOP_LENGTH, pyin_track, voicing_f1
from wavflow.text_to_mel import TextToMel


class Utterance(NamedTuple):
    """A recorded sentence, aligned with its symbols by the model."""

    audio: Tensor  # (T,)
    mel: Tensor  # (n_mels, F)
    symbols: Tensor  # (1, S)
    owners: Tensor  # (F,) number of the symbol that each frame belongs to
    nats: float  # of all coefficients


def aligned(model: TextToMel, voice: Tensor | None, files: Iterable[tuple[Path, str]]) -> Iterator[Utterance]:
    """Yields audio files and their texts, aligned."""
    for path, text in files:
        audio, _ = wavflow.read_audio(path, model.mel.sample_rate)
        mel = model.mel(audio[None].float())[..., : even_frames(len(audio), model.mel)]
        symbols = model.encode(text)
        with torch.inference_mode():
            scored = model.log_prob(mel, symbols, voice)
        owners = symbols[0].repeat_interleave(scored.durations[0].sum(dim=-1))
        yield Utterance(audio, mel[0], symbols, owners, scored.log_prob.sum().item())


def symbol_gaussians(utterances: Iterable[Utterance], n_symbols: int) -> torch.distributions.Normal:
    """Returns a diagonal Gaussian (n_symbols, n_mels) for each symbol; rare ones lean on the Gaussian of all frames.

    To each symbol's frames one is added that has the mean and the variance of all frames.
    """
    pairs = [(utterance.mel.T.double(), utterance.owners) for utterance in utterances]
    frames, owners = (torch.cat(part) for part in zip(*pairs, strict=True))
    counts = torch.bincount(owners, minlength=n_symbols)[:, None] + 1.0
    mean = frames.mean(0).repeat(n_symbols, 1).index_add_(0, owners, frames) / counts
    variance = frames.var(0).repeat(n_symbols, 1).index_add_(0, owners, (frames - mean[owners]).square()) / counts
    return torch.distributions.Normal(mean, variance.sqrt())


def warped_f1(spoken: Tensor, spoken_mel: Tensor, recording: Utterance, sample_rate: int, hop_length: int) -> float:
    """Returns the F1 of the voiced frames of spoken audio (T,), laid along the recording by their mels."""
    steps = librosa.sequence.dtw(spoken_mel.numpy(), recording.mel.numpy())[1][::-1]
    frames = np.zeros(recording.mel.shape[1], int)
    frames[steps[:, 1]] = steps[:, 0]  # the last of the spoken frames that belong to each recorded one
    found, wanted = (pyin_track(audio, sample_rate) for audio in (spoken, recording.audio))
    at = (np.arange(len(frames)) * hop_length // HOP_LENGTH).clip(max=len(wanted) - 1)
    return voicing_f1(found[(frames * hop_length // HOP_LENGTH).clip(max=len(found) - 1)], wanted[at])


def main() -> None:
    """Prints the metrics."""
    parser = options(__doc__)
    parser.add_argument("--train", type=int, default=200, help="training sentences, for the Gaussians")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, vocoder, voice, split, texts = load(arguments)
    train, test = (
        [texts[name] for name in split[part] if name in texts][:most]
        for part, most in (("train", arguments.train), ("test", arguments.count))
    )
    gaussians = symbol_gaussians(aligned(model, voice, train), len(model.numbers))
    held_out = list(aligned(model, voice, test))
    baseline = 0.0
    for each in held_out:
        own = torch.distributions.Normal(gaussians.loc[each.owners], gaussians.scale[each.owners])
        baseline += own.log_prob(each.mel.T).sum().item()
    coefficients, nats = sum(each.mel.numel() for each in held_out), sum(each.nats for each in held_out)
    print(f"{len(held_out)} held-out sentences; log-density in nats per coefficient of the mel, given the text:")
    print(f"  model {nats / coefficients:.3f}, a Gaussian per symbol {baseline / coefficients:.3f}")
    spoken, voicing = [], []
    for i, each in enumerate(held_out):
        generator = torch.Generator().manual_seed(i)
        with torch.inference_mode():
            mel = model.sample(each.symbols, arguments.temperature, 1.0, arguments.guidance, voice, generator=generator)
        audio = vocoder.sample(mel, generator=generator)[0]
        voicing.append(warped_f1(audio, mel[0], each, model.mel.sample_rate, model.mel.hop_length))
        spoken.append(mel[0])
    ours, theirs = torch.cat(spoken, dim=1), torch.cat([each.mel for each in held_out], dim=1)
    means, deviations = ours.mean(1) - theirs.mean(1), ours.std(1) / theirs.std(1)
    print("bands of the spoken mels against the recorded:")
    print(f"  means off by {means.abs().mean():.2f} nats, at most {means.abs().max():.2f}; {means.mean():+.2f} in all")
    print(f"  deviations {deviations.mean():.2f} of the recorded, {deviations.min():.2f} to {deviations.max():.2f}")
    print(f"duration {ours.shape[1] / theirs.shape[1]:.3f} of the recordings'; F1 of the voicing {np.nanmean(voicing):.3f}")


if __name__ == "__main__":
    main()
