"""The source of a student's voice: one pulse per period under the noise, at the pitch that the mel tells.

White noise through a comb hums, but each harmonic is then a separate narrow band of noise whose phase wanders. A voice's
harmonics belong together, for one pulse per period excites them all. So the noise gets a mean, and keeps the power that the
mean leaves:

    v[t] = pulses[t] + sigma[t] z[t],        log |dv/dz| = log sigma

The mel tells the period of the pulses, not their phase. Maximum likelihood would make a teacher cover every phase. The reverse
KL lets a student keep to one, which costs the logarithm of a period in nats once per utterance, not per sample. So this is a
map for students alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavflow.arguments import at_least_float32
from wavflow.flows.mel_blocks import MelBlocks
from wavflow.flows.pitch_prediction import MelPitch, raised_cosine
from wavflow.mel import MelSpectrogram


class HarmonicSource(MelBlocks):
    """Adds pulses at the mel's pitch to noise: `z -> v` is its inverse, the way that a student draws.

    The comb of the whitening amplifies a pulse train in amplitude by 1 / (1 - b H), noise in power by 1 / (1 - (b H)^2), where
    H(w) is the response of its kernel. Of the sum the pulses make up s, at every frequency alike:

        s = share (1 - (1 - b)^2),        sigma^2 = 1 - s,        P(w)^2 = s (1 - b H) / (1 + b H) per sample

    A short pulse less a part of one as wide as the comb's kernel has the spectrum P, to within a few hundredths: weak where the
    comb resonates, and at higher frequencies as strong as the noise that it replaces. The short pulse fades out around 5.5 kHz:
    above that, voices hiss. `cond` is the conditioning mel (B, n_mels, F).

    Args:
        mel: The convention of the conditioning mel.
        pitch: Reads period and periodicity b from it; that of the whitening's comb.
        share: Of the power of a perfectly periodic voice, below 1.

    Raises:
        ValueError: When the share is not in [0, 1).

    References:
        The source-filter model of speech, with a mixed excitation (McCree and Barnwell, 1995); pulses for a neural vocoder:
        Neural source-filter models (Wang, Takaki and Yamagishi, 2019), https://arxiv.org/abs/1904.12088. There the source is
        the input of a net; here it is the mean of a flow's base, so that the density stays exact.
    """

    def __init__(self, mel: MelSpectrogram, pitch: MelPitch, share: float) -> None:
        super().__init__(mel)
        if not 0.0 <= share < 1.0:
            raise ValueError(f"`pulses` must be at least 0 and below 1, got {share}: it is a share of a voice's power.")
        self.pitch = pitch
        self.share = share
        self.width = max(1, round(9e-5 * mel.sample_rate))  # of the short pulse, samples

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Takes the pulses out of v (B, 1, T); returns z and -log sigma (B, T)."""
        pulses, log_sigma = self._of_whole(x, cond)
        return (x - pulses) * torch.exp(-log_sigma), -at_least_float32(log_sigma.squeeze(1))

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Adds the pulses to noise z (B, 1, T); returns v and log sigma (B, T)."""
        pulses, log_sigma = self._of_whole(z, cond)
        return pulses + torch.exp(log_sigma) * z, at_least_float32(log_sigma.squeeze(1))

    def initial(self, batch: int, like: Tensor) -> Tensor:
        """Returns the phase before the first sample, (B, 1) in periods, float64."""
        return like.new_zeros(batch, 1, dtype=torch.float64)

    def source(self, period: Tensor, strength: Tensor, phase: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns pulses and log sigma of N blocks, (B, 1, N * block_length), and the phase after them.

        Args:
            period: (B, N), in samples, float64.
            strength: b, (B, N).
            phase: (B, 1), in periods, before the first sample.
        """
        turns = torch.cat([phase, self.block_length / period], dim=-1).cumsum(dim=-1)
        t = torch.arange(self.block_length, dtype=torch.float64, device=period.device)
        period, strength = period.unsqueeze(-1), strength.unsqueeze(-1)
        turn = turns[..., :-1].unsqueeze(-1) + t / period
        distance = (turn - turn.round()).abs() * period  # to the nearest pulse, in samples
        share = self.share * strength * (2.0 - strength)
        taken = 1.0 - ((1.0 - strength) / (1.0 + strength)).sqrt()
        wide = self.pitch.half_width + 1
        pulse = raised_cosine(distance, self.width) / self.width - taken * raised_cosine(distance, wide) / wide
        log_sigma = (0.5 * torch.log1p(-share)).expand_as(pulse)
        return ((period * share).sqrt() * pulse).flatten(1).unsqueeze(1), log_sigma.flatten(1).unsqueeze(1), turns[..., -1:]

    @torch.no_grad()
    def _of_whole(self, x: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        self.in_blocks(x, mel)  # checks them
        period, strength = self.pitch(self.at_blocks(mel))
        pulses, log_sigma, _ = self.source(period, strength, self.initial(mel.shape[0], mel))
        return pulses.to(x.dtype), log_sigma.to(x.dtype)
