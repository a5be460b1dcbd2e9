"""A student with its state outside: what it takes to stream it, in torch or in any graph made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.arguments import at_least_float32
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Inverse, log_det_of_identity
from wavflow.flows.reshape import fold, fold_cond, unfold
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet
from wavflow.synthesis.export_unwhitening import State, Unwhitening

if TYPE_CHECKING:
    from wavflow.vocoder import Vocoder

CONTEXT = 2  # mel frames before and after its own that a frame of audio depends on


def loop(step: Callable[[State, State], tuple[State, Tensor]], state: State, blocks: State) -> tuple[State, Tensor]:
    """Takes one step for each of N blocks, (N, ...) each; returns the last state and what the steps return, (N, ...)."""
    pieces = []
    for n in range(len(blocks["u"])):
        state, piece = step(state, {name: part[n] for name, part in blocks.items()})
        pieces.append(piece)
    return state, torch.stack(pieces)


class StudentStep(nn.Module):
    """Draws the next frames of audio from their mel, noise and the state after the frames before them.

    A frame of audio takes the features of its own frame and of both neighbors, each of which sees one mel frame to either
    side. Where the mel has no such frame there is NaN instead: the edges are then held as one pass over all frames holds them.

        mel             nan nan  0   1   2   3  ...         window of frame 0:  nan nan 0 1 2
        window of frame      f-2 f-1  f  f+1 f+2                        last:   F-3 F-2 F-1 nan nan

    So the first audio comes after three mel frames. Frames one by one, and all at once, give the same audio:

        state = step.initial()
        for f in range(mel.shape[-1]):
            audio, log_prob, state = step(padded[..., f : f + 5], noise[:, f * hop : (f + 1) * hop], state)

    Args:
        vocoder: A student: a chain of inverse autoregressive flows with causal WaveNets.
        scan: Goes from block to block of the whitening, as `loop` does; a graph of any length needs `torch.scan`.

    Raises:
        ValueError: For another model.
    """

    def __init__(self, vocoder: Vocoder, scan: Callable[..., tuple[State, Tensor]] = loop) -> None:
        super().__init__()
        self.flows = inverse_flows(vocoder)
        self.vocoder, self.scan = vocoder, scan
        self.unwhitening = Unwhitening(vocoder.whitening) if vocoder.whitening is not None else None

    @torch.no_grad()
    def initial(self, batch: int = 1) -> State:
        """Returns the state before the first frame, by name: the zeros that one pass over all frames pads with."""
        like, state = at_least_float32(self.vocoder.upsampler.mix.weight), {}
        for i, flow in enumerate(self.flows):
            state[f"flow{i}.noise"] = like.new_zeros(batch, flow.group, 1)
            state |= {f"flow{i}.layer{j}": past for j, past in enumerate(flow.conditioner.initial(batch))}
        if self.vocoder.source is not None:
            state["source.phase"] = self.vocoder.source.initial(batch, like)
        return state if self.unwhitening is None else state | self.unwhitening.initial(batch, like)

    def forward(self, mel: Tensor, noise: Tensor, state: State, speaker: Tensor | None = None) -> tuple[Tensor, Tensor, State]:
        """Returns audio (B, F * hop_length), its log-density, of the same shape, and the state after it.

        Args:
            mel: (B, n_mels, 2 + F + 2): the frames to draw between two on either side, NaN where the mel has none.
            noise: (B, F * hop_length), temperature included.
            state: From `initial`, or the frames before.
            speaker: Ids (B,), for a model with speakers.

        Raises:
            ValueError: Where a shape does not fit.
        """
        n_mels, hop_length = self.vocoder.mel.n_mels, self.vocoder.hop_length
        if mel.shape[1] != n_mels or noise.shape[1] != (mel.shape[-1] - 2 * CONTEXT) * hop_length:
            raise ValueError(
                f"`mel` and `noise` must be (B, {n_mels}, F + {2 * CONTEXT}) and (B, F * {hop_length}), got "
                f"{tuple(mel.shape)} and {tuple(noise.shape)}: give the frames to draw, with two of the mel on either side."
            )
        held = held_frames(mel)
        mel = at_frames(mel, held) if n_mels else mel  # of no bands there is nothing to hold
        cond = self.vocoder.conditioning(mel, speaker)
        cond = Conditioning(at_frames(cond.frames, held[:, 1:-1]), cond.kernel, context=1)
        z, mel = noise.unsqueeze(1), mel[..., 1:-1]
        v, log_sigma, after = self._add_pulses(z, mel, state)
        u, log_det, past = self._draw(v, cond, state)
        after, log_prob = past | after, self.vocoder.flow.base_log_prob(z) - log_sigma - log_det
        if self.unwhitening is None:
            return u.squeeze(1), log_prob, after
        filters = self.unwhitening.filters(mel)
        blocks = {name: self.unwhitening.envelope.inner(part).movedim(1, 0) for name, part in filters.items()}
        log_gain = blocks["log_gain"].movedim(0, 1).to(log_prob.dtype)
        blocks["u"] = u.reshape(u.shape[0], -1, self.unwhitening.length).movedim(1, 0)
        past = {name: part for name, part in state.items() if name.startswith("whitening.")}
        past, audio = self.scan(self.unwhitening, past, blocks)
        log_prob = log_prob - log_gain.repeat_interleave(self.unwhitening.length, dim=1)
        return audio.movedim(0, 1).flatten(1), log_prob, after | past

    def _add_pulses(self, z: Tensor, mel: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Adds pulses to noise z (B, 1, F * hop_length), by the mel of F + 2 frames; also log |dv/dz| (B, T) and the state."""
        source = self.vocoder.source
        if source is None:
            return z, log_det_of_identity(z), {}
        period, strength = (source.inner(part) for part in source.pitch(source.at_blocks(mel)))
        pulses, log_sigma, phase = source.source(period, strength, state["source.phase"])
        log_sigma = log_sigma.to(z.dtype)
        return pulses.to(z.dtype) + torch.exp(log_sigma) * z, log_sigma.squeeze(1), {"source.phase": phase}

    def _draw(self, z: Tensor, cond: Conditioning, state: State) -> tuple[Tensor, Tensor, State]:
        """Maps z (B, 1, T) through all flows to u (B, 1, T); also log |du/dz| (B, T) and the state."""
        log_det, after = log_det_of_identity(z), {}
        for i, flow in enumerate(self.flows):
            x = fold(z, flow.group)
            before = torch.cat([state[f"flow{i}.noise"], x], dim=-1)
            after[f"flow{i}.noise"] = before[..., -1:]
            past = [state[f"flow{i}.layer{j}"] for j in range(len(flow.conditioner.dilations))]
            params, past = flow.conditioner.push(before[..., :-1], fold_cond(cond, flow.group), past)
            after |= {f"flow{i}.layer{j}": part for j, part in enumerate(past)}
            y, log_slope = flow.tau.forward(x, params)
            z, log_det = unfold(y, flow.group), log_det + unfold(log_slope, flow.group).sum(dim=1)
        return z, log_det, after


class StudentStream:
    """State of one streaming synthesis by `StudentStep`, on any device and in any dtype; `ParallelStream` in torch.

    Args:
        vocoder: A student.
        batch: Items that are drawn at once.
        speaker: Ids (B,), for a model with speakers.
    """

    def __init__(self, vocoder: Vocoder, batch: int, speaker: Tensor | None = None) -> None:
        self.step, self.speaker = StudentStep(vocoder), speaker
        self.state = self.step.initial(batch)
        like = at_least_float32(vocoder.upsampler.mix.weight)
        self.outside = like.new_full((batch, vocoder.mel.n_mels, CONTEXT), torch.nan)
        self.mel = self.outside

    @torch.no_grad()
    def push(self, mel: Tensor, noise: Callable[[int], Tensor], last: bool = False) -> tuple[Tensor, Tensor]:
        """Takes further frames (B, n_mels, F), and draws what can be drawn; see `ParallelStream.push`."""
        self.mel = torch.cat([self.mel, mel, self.outside] if last else [self.mel, mel], dim=-1)
        frames = max(self.mel.shape[-1] - 2 * CONTEXT, 0)
        if not frames:
            return (self.outside.new_zeros(len(self.mel), 0),) * 2
        samples = noise(frames * self.step.vocoder.hop_length)
        audio, log_prob, self.state = self.step(self.mel, samples, self.state, self.speaker)
        self.mel = self.mel[..., frames:]
        return audio, log_prob

    def pieces(self, mel: Tensor, noise: Callable[[int], Tensor], last: bool = False) -> Iterator[tuple[Tensor, bool]]:
        """Yields the audio of `push` as a single piece, see `ParallelStream.pieces`."""
        yield self.push(mel, noise, last)[0], True


def inverse_flows(vocoder: Vocoder) -> list[Autoregressive]:
    """Returns the flows of a student, as they are drawn through.

    Raises:
        ValueError: When the model is no student.
    """
    transform = vocoder.flow.transform
    steps = list(transform.transforms) if isinstance(transform, Chain) else [transform]
    flows = []
    for step in reversed(steps):
        inner = step.transform if isinstance(step, Inverse) else None
        if type(inner) is not Autoregressive or type(inner.conditioner) is not WaveNet or not inner.conditioner.causal:
            raise ValueError(
                "`vocoder` must be a student, a chain of inverse autoregressive flows as wavflow.models.student makes, got "
                f"{type(step).__name__}{'' if inner is None else ' of ' + type(inner).__name__}: distil one from a teacher."
            )
        flows.append(inner)
    return flows


def outside(mel: Tensor) -> Tensor:
    """Pads a whole mel (B, n_mels, F) with the NaN that `StudentStep` takes for frames that are not there."""
    return functional.pad(mel, (CONTEXT, CONTEXT), value=torch.nan)


def held_frames(mel: Tensor) -> Tensor:
    """Returns which frame (B, F + 4) of a window stands in each place: the nearest one where there is NaN."""
    there, end = (~mel.isnan().any(dim=1)).long(), mel.shape[-1] - 1
    first, last = 2 - there[:, 1] * (1 + there[:, 0]), end - 2 + there[:, -2] * (1 + there[:, -1])
    places = torch.arange(mel.shape[-1], device=mel.device)
    return torch.minimum(torch.maximum(places, first.unsqueeze(1)), last.unsqueeze(1))


def at_frames(frames: Tensor, index: Tensor) -> Tensor:
    """Returns frames (B, K, F) at an index (B, N): (B, K, N)."""
    return frames.gather(2, index.unsqueeze(1).expand(-1, frames.shape[1], -1))
