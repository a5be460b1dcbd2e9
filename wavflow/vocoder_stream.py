"""A vocoder's draw in pieces, as the mel comes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wavflow.mel_equalizer import EqualizerStream
from wavflow.mel_scale import check_scale
from wavflow.synthesis.eager import EagerSampler
from wavflow.synthesis.parallel import ParallelEngine

if TYPE_CHECKING:
    from wavflow.vocoder import Vocoder


class VocoderStream:
    """State of one streamed draw, see `Vocoder.open_stream`.

    Args:
        vocoder: Draws.
        sampler: Its engine, or what takes its place.
        equalizer: Takes the draw to its mel.
        noise: Called with a mel of the batch and a number n of samples; returns noise (B, n), temperature included.
        speaker: Ids (B,), for a model with speakers.
    """

    def __init__(
        self,
        vocoder: Vocoder,
        sampler: ParallelEngine | EagerSampler,
        equalizer: EqualizerStream,
        noise: Callable[[Tensor, int], Tensor],
        speaker: Tensor | None,
    ) -> None:
        self.vocoder, self.sampler, self.equalizer, self.noise, self.speaker = vocoder, sampler, equalizer, noise, speaker
        self.stream: Any = None  # of the sampler, once the first frames tell how many items there are

    @property
    def started(self) -> bool:
        """Whether any frames have come."""
        return self.stream is not None

    def push(self, mel: Tensor | np.ndarray) -> Tensor:
        """Takes further frames (B, n_mels, F), F = 0 too; returns the audio that they make known, (B, n).

        Raises:
            ValueError: For frames that are no such mel, or noise that ends before them.
        """
        chunk = self.vocoder._input("mel", mel)
        if chunk.ndim == 3 and not chunk.shape[-1]:
            return chunk.new_zeros(len(chunk), 0)
        self.vocoder.mel.check(chunk)
        check_scale(chunk, self.vocoder.mel)
        if self.stream is None:
            self.stream, self.none = self.sampler.stream(len(chunk), self.speaker), chunk[..., :0]
        return self._push(chunk, last=False)

    def end(self) -> Tensor:
        """Returns the rest of the audio (B, n).

        Raises:
            ValueError: When no frames have come.
        """
        if not self.started:
            raise ValueError("`mel`: no frames have come: push some before the end.")
        return self._push(self.none, last=True)

    @torch.no_grad()
    def _push(self, chunk: Tensor, last: bool) -> Tensor:
        pieces = self.stream.pieces(chunk, partial(self.noise, self.none), last)
        return self.equalizer.push_pieces(pieces, chunk, last)
