"""A student with its memory outside, frame by frame: what it takes to stream it, from torch or from any graph made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Inverse, at_least_float32, log_det_of_identity
from wavflow.flows.reshape import fold, fold_cond, unfold
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet
from wavflow.synthesis.export_unwhitening import State, Unwhitening

if TYPE_CHECKING:
    from wavflow.vocoder import Vocoder

WINDOW = 5  # mel frames that a frame of audio depends on: two before it, itself, two after


class FrameStep(nn.Module):
    """Draws one frame of audio from its mel, noise and the memory of the frames before; equal to `Vocoder.sample` in one pass.

    A frame of audio takes the features of its own frame and of both neighbors, each of which sees one mel frame to either
    side. Where the mel has no such frame, the window holds NaN: the edges are then held as the whole pass holds them.

        mel             nan nan  0   1   2   3  ...         window of frame 0:  nan nan 0 1 2
        window of frame      f-2 f-1  f  f+1 f+2                        last:   F-3 F-2 F-1 nan nan

    So the first audio comes after three mel frames. The memory is what the whole pass pads: zeros at first.

        state = step.initial()
        for f in range(mel.shape[-1]):
            audio, state = step(padded[..., f : f + 5], noise[:, f * hop : (f + 1) * hop], state)

    Args:
        vocoder: A student: a chain of inverse autoregressive flows with causal WaveNets.

    Raises:
        ValueError: For another model.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.flows = inverse_flows(vocoder)
        self.vocoder = vocoder
        self.unwhitening = Unwhitening(vocoder.whitening) if vocoder.whitening is not None else None

    @torch.no_grad()
    def initial(self, batch: int = 1) -> State:
        """Returns the memory before the first frame, by name: zeros."""
        like = at_least_float32(self.vocoder.upsampler.mix.weight)
        state = initial(self.flows, batch, like)
        if self.vocoder.source is not None:
            state["source.phase"] = self.vocoder.source.initial(batch, like)
        return state if self.unwhitening is None else state | self.unwhitening.initial(batch, like)

    def forward(self, mel: Tensor, noise: Tensor, state: State, speaker: Tensor | None = None) -> tuple[Tensor, State]:
        """Returns audio (B, hop_length) and the memory after it.

        Args:
            mel: (B, n_mels, 5), the frame in the middle; NaN before the first and after the last frame.
            noise: (B, hop_length), temperature included.
            state: From `initial`, or the frame before.
            speaker: Ids (B,), for a model with speakers.

        Raises:
            ValueError: Where a shape does not fit.
        """
        hop_length = self.vocoder.hop_length
        if mel.shape[1:] != (self.vocoder.mel.n_mels, WINDOW) or noise.shape[1:] != (hop_length,):
            raise ValueError(
                f"`mel` and `noise` must be (B, {self.vocoder.mel.n_mels}, {WINDOW}) and (B, {hop_length}), got "
                f"{tuple(mel.shape)} and {tuple(noise.shape)}: give one frame, with two of the mel on either side."
            )
        held = held_frames(mel)
        mel = at_frames(mel, held) if mel.shape[1] else mel  # of no bands there is nothing to hold
        cond = self.vocoder.conditioning(mel, speaker)
        middle = MiddleFrame(at_frames(cond.frames, held[:, 1:4]), cond.kernel)
        z, phase = self._add_pulses(noise.unsqueeze(1), mel[..., 1:4], state)
        u, _, after = draw(self.flows, z, middle, state)
        after |= phase
        if self.unwhitening is None:
            return u.squeeze(1), after
        blocks = hop_length // self.unwhitening.length
        filters = {name: part[:, blocks : 2 * blocks] for name, part in self.unwhitening.filters(mel[..., 1:4]).items()}
        filters["u"] = u.unflatten(-1, (blocks, -1)).squeeze(1)
        memory, pieces = {name: part for name, part in state.items() if name not in after}, []
        for n in range(blocks):
            memory, piece = self.unwhitening(memory, {name: part[:, n] for name, part in filters.items()})
            pieces.append(piece)
        return torch.cat(pieces, dim=-1), after | memory

    def _add_pulses(self, z: Tensor, mel: Tensor, state: State) -> tuple[Tensor, State]:
        """Adds the pulses of the middle of three frames to noise (B, 1, hop_length)."""
        source = self.vocoder.source
        if source is None:
            return z, {}
        blocks = z.shape[-1] // source.block_length
        here = (part[:, blocks : 2 * blocks] for part in source.pitch(source.at_blocks(mel)))
        pulses, log_sigma, phase = source.source(*here, state["source.phase"])
        return pulses.to(z.dtype) + torch.exp(log_sigma).to(z.dtype) * z, {"source.phase": phase}


class FrameStream:
    """What is known so far of one draw: takes frames as they come, as `ParallelStream` does, on any device in any dtype.

    Args:
        vocoder: A student.
        batch: Items that are drawn at once.
        speaker: Ids (B,), for a model with speakers.
    """

    def __init__(self, vocoder: Vocoder, batch: int, speaker: Tensor | None = None) -> None:
        self.step, self.speaker = FrameStep(vocoder), speaker
        self.state = self.step.initial(batch)
        like = at_least_float32(vocoder.upsampler.mix.weight)
        self.outside = like.new_full((batch, vocoder.mel.n_mels, WINDOW // 2), torch.nan)
        self.mel = self.outside

    @torch.no_grad()
    def push(self, mel: Tensor, noise: Callable[[int], Tensor], last: bool = False) -> tuple[Tensor, None]:
        """Takes further frames (B, n_mels, F), and draws what can be drawn; see `ParallelStream.push`. No density."""
        self.mel = torch.cat([self.mel, mel, self.outside] if last else [self.mel, mel], dim=-1)
        pieces = [self.outside.flatten(1)[:, :0]]
        while self.mel.shape[-1] >= WINDOW:
            window, self.mel = self.mel[..., :WINDOW], self.mel[..., 1:]
            audio, self.state = self.step(window, noise(self.step.vocoder.hop_length), self.state, self.speaker)
            pieces.append(audio)
        return torch.cat(pieces, dim=-1), None


@dataclass(frozen=True)
class MiddleFrame(Conditioning):
    """The conditioning of one frame's samples, by it and both neighbors: `frames` are (B, K, 3)."""

    def folded(self, factor: int) -> Conditioning:
        """Returns the same at a coarser rate."""
        return replace(self, kernel=super().folded(factor).kernel)

    def to_samples(self, frames: Tensor, length: int) -> Tensor:
        """Upsamples projected features (B, 3, C) to those of the middle frame, (B, length, C)."""
        assert length == self.hop_length
        return self.frame_to_samples(frames, 1)


def inverse_flows(vocoder: Vocoder) -> list[Autoregressive]:
    """Returns the flows of a student, as they are drawn through.

    Raises:
        ValueError: When the model is none.
    """
    transform = vocoder.flow.transform
    steps = list(transform.transforms) if isinstance(transform, Chain) else [transform]
    for step in steps:
        inner = step.transform if isinstance(step, Inverse) else None
        if type(inner) is not Autoregressive or type(inner.conditioner) is not WaveNet or not inner.conditioner.causal:
            raise ValueError(
                "`vocoder` must be a student, a chain of inverse autoregressive flows as wavflow.models.student makes, got "
                f"{type(step).__name__}{'' if inner is None else ' of ' + type(inner).__name__}: distil one from a teacher."
            )
    return [step.transform for step in reversed(steps)]


def initial(flows: list[Autoregressive], batch: int, like: Tensor) -> State:
    """Returns the memory of flows before the first sample: of each the last step of noise, and the past of its layers."""
    state = {}
    for i, flow in enumerate(flows):
        state[f"flow{i}.noise"] = like.new_zeros(batch, flow.group, 1)
        state |= {f"flow{i}.layer{j}": past for j, past in enumerate(flow.conditioner.initial(batch))}
    return state


def draw(flows: list[Autoregressive], z: Tensor, cond: Conditioning, state: State) -> tuple[Tensor, Tensor, State]:
    """Maps noise z (B, 1, T) to u (B, 1, T); also returns log |du/dz| (B, T), and the memory after it."""
    log_det, after = log_det_of_identity(z), {}
    for i, flow in enumerate(flows):
        x = fold(z, flow.group)
        before = torch.cat([state[f"flow{i}.noise"], x], dim=-1)
        after[f"flow{i}.noise"] = before[..., -1:]
        past = [state[f"flow{i}.layer{j}"] for j in range(len(flow.conditioner.dilations))]
        params, past = flow.conditioner.push(before[..., :-1], fold_cond(cond, flow.group), past)
        after |= {f"flow{i}.layer{j}": part for j, part in enumerate(past)}
        y, log_slope = flow.tau.forward(x, params)
        z, log_det = unfold(y, flow.group), log_det + unfold(log_slope, flow.group).sum(dim=1)
    return z, log_det, after


def held_frames(mel: Tensor) -> Tensor:
    """Returns the frame (B, 5) of a window (B, n_mels, 5) that stands in each place: the nearest where there is NaN."""
    there = (~mel.isnan().any(dim=1)).long()
    first, last = 2 - there[:, 1] * (1 + there[:, 0]), 2 + there[:, 3] * (1 + there[:, 4])
    places = torch.arange(WINDOW, device=mel.device)
    return torch.minimum(torch.maximum(places, first.unsqueeze(1)), last.unsqueeze(1))


def at_frames(frames: Tensor, index: Tensor) -> Tensor:
    """Returns frames (B, K, F) at an index (B, N): (B, K, N)."""
    return frames.gather(2, index.unsqueeze(1).expand(-1, frames.shape[1], -1))
