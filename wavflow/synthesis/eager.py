"""Sampling by the model's own flow, on any device and in any dtype; an engine takes a teacher's steps where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wavflow.nn.upsampler import Conditioning
from wavflow.segments import segments
from wavflow.synthesis.steps import StepEngine
from wavflow.synthesis.student import StudentStream

if TYPE_CHECKING:
    from wavflow.vocoder import Vocoder


class EagerSampler:
    """Samples audio by the model itself; the same protocol as `ParallelEngine`.

    A flow whose context is short enough (a student's, a coupling's) draws in segments, so that the memory for its layers does
    not grow with the length. Each segment is read with its context: the audio is that of one pass.

    Args:
        vocoder: Any model.
        engine: Takes the steps of an autoregressive flow; None for the flow itself.
        segment_frames: Frames to a segment.
    """

    def __init__(self, vocoder: Vocoder, engine: StepEngine | None = None, segment_frames: int = 128) -> None:
        self.vocoder, self.engine, self.segment_frames = vocoder, engine, segment_frames

    def pieces(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> Iterator[tuple[Tensor, bool]]:
        """Yields audio (B, T) of a mel (B, n_mels, F) and noise (B, T), temperature included: all of it, the last piece."""
        z, _ = self.vocoder.add_pulses(noise.unsqueeze(1), mel)
        cond = self.vocoder.conditioning(mel, speaker)
        u = self._in_segments(z, cond) if self.engine is None else self.engine.sample(z, cond)
        yield self.vocoder.unwhiten(u, mel)[0], True

    def stream(self, batch: int = 1, speaker: Tensor | None = None) -> StudentStream:
        """Returns an empty stream for a batch of items; raises ValueError for a model that is no student."""
        return StudentStream(self.vocoder, batch, speaker)

    def _in_segments(self, z: Tensor, cond: Conditioning) -> Tensor:
        """Draws whitened audio (B, 1, T) by the flow, in segments where its context is short enough."""
        flow, hop, size = self.vocoder.flow, self.vocoder.hop_length, self.segment_frames
        before, after = flow.transform.context
        if before + after > 4 * size * hop:  # segments would cost more than they save
            return flow.sample(z, cond)
        # a frame more at either end: interpolation between frames needs both neighbors
        left, right = (-(-int(samples) // hop) + 1 for samples in (before, after))
        drawn = []
        for segment in segments(cond.frames.shape[-1], size, left, right):
            part = replace(cond, frames=cond.frames[..., segment.read()])
            drawn.append(flow.sample(z[..., segment.read(hop)], part)[..., segment.keep(hop)])
        return torch.cat(drawn, dim=-1)
