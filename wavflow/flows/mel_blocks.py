"""Base of the maps whose coefficients the mel gives: audio in blocks, and the log-mel at their rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wavflow.flows.base import Transform
from wavflow.mel import MelSpectrogram
from wavflow.nn.exact_buffers import ExactBuffers
from wavflow.nn.upsampler import interpolate, interpolation_weights


class MelBlocks(ExactBuffers, Transform):
    """A transform of audio (B, 1, T) whose coefficients come from the mel and are held for a block of `hop_length / 4` samples.

    Args:
        mel: The convention of the conditioning mel.
    """

    def __init__(self, mel: MelSpectrogram) -> None:
        super().__init__()
        self.hop_length = mel.hop_length
        self.blocks_per_frame = math.gcd(mel.hop_length, 4)
        self.block_length = mel.hop_length // self.blocks_per_frame
        kernel = interpolation_weights(self.blocks_per_frame, mel.frame_center / self.block_length)
        self.kernel = nn.Buffer(kernel, persistent=False)

    def at_blocks(self, mel: Tensor) -> Tensor:
        """Returns a log-mel (B, n_mels, F) at the rate of the N blocks, (B, N, n_mels), in float64."""
        return interpolate(mel.transpose(1, 2).double(), self.kernel)

    def loudest_nearby(self, mel: Tensor) -> Tensor:
        """Returns for each block the greatest value of a log-mel in its frame and both neighbors, (B, N, n_mels), float64."""
        frames = torch.cat([mel[..., :1], mel, mel[..., -1:]], dim=-1).unfold(-1, 3, 1).amax(dim=-1)
        return frames.transpose(1, 2).double().repeat_interleave(self.blocks_per_frame, dim=1)

    def inner(self, blocks: Tensor) -> Tensor:
        """Returns blocks (B, N, ...) without those of the first and the last frame, which were context."""
        return blocks[:, self.blocks_per_frame : -self.blocks_per_frame]

    def in_blocks(self, x: Tensor, mel: Tensor | None) -> Tensor:
        """Returns x (B, 1, T) in blocks (B, N, block_length).

        Raises:
            ValueError: When x has another shape, or the mel is missing or not of T / hop_length frames.
        """
        if x.dim() != 3 or x.shape[1] != 1:
            raise ValueError(f"`x` must be (B, 1, T), got {tuple(x.shape)}.")
        if mel is None or x.shape[-1] != mel.shape[-1] * self.hop_length:
            came = "no mel" if mel is None else f"{mel.shape[-1]} frames for {x.shape[-1]} samples"
            raise ValueError(
                f"`cond` must be a mel with one frame per {self.hop_length} samples, got {came}: cut or pad the audio."
            )
        return x.reshape(x.shape[0], -1, self.block_length)
