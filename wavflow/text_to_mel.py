"""From text to mel: a flow whose base is a Gaussian around what the text says of each frame, given the alignment."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wavflow.arguments import at_least, at_least_float32, check_speaker
from wavflow.distributions.base import Gaussian
from wavflow.flows.base import Chain, Flow
from wavflow.flows.coupling import Coupling
from wavflow.flows.elementwise import Affine
from wavflow.flows.linear import InvertibleLinear
from wavflow.flows.reshape import Folded, Grouped
from wavflow.flows.static import ActNorm
from wavflow.kernels.alignment import align_monotonically
from wavflow.mel import MEL_FLOOR, MelSpectrogram
from wavflow.nn.text_encoder import DurationPredictor, TextEncoder
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet
from wavflow.text import PAUSES, symbols_of

FOLD = 2
"""Frames that the flow takes at once: it maps whole pairs."""

TEMPERATURE = 0.333
"""Default of `sample`: with more noise and with less, fewer words are understood."""

GUIDANCE = 2.0
"""Default of `sample`: more words are understood than at 1, since a model of little speech stays near the average."""


class Aligned(NamedTuple):
    """The alignment of a mel with its text."""

    log_prob: Tensor  # (B, F) of each frame, nats, given the durations
    durations: Tensor  # (B, S, states) frames of each state of each symbol, those of the most likely alignment
    log_durations: Tensor  # (B, S, states) log of what the model expects of them


class TextToMel(nn.Module):
    """Density of a mel given its text, by Glow-TTS: `mel <-> flow <-> z`, z[f] Gaussian around a mean that the text gives.

    log p(mel | text, durations) = sum over f of log N(z[f]; mean of the state at f, 1) + log |dz/dmel|, exactly. Each symbol
    has a few states, one after the other: a phone does not end as it starts. The durations are those that make the density
    greatest, and a net learns to predict them.

    Args:
        mel: The convention of the mels, which a vocoder must share.
        symbols: The table of symbols.
        alphabet: How a text becomes symbols, see `wavflow.text`.
        encoder: Features of the symbols.
        durations: Their expected frames.
        flow: Density of mels (B, n_mels, F), F even.
        channels: Width of the encoder.
        voice_channels: Width of the embedding of a voice.
        n_speakers: How many voices; 0 for one that has no name.
        states: Of each symbol; each takes a frame at least.

    Attributes:
        config: How `wavflow.models` builds this model again.
        info: Facts that its file told.

    References:
        Glow-TTS (Kim et al., 2020), https://arxiv.org/abs/2005.11129
    """

    def __init__(
        self,
        mel: MelSpectrogram,
        symbols: Sequence[str],
        alphabet: str,
        encoder: TextEncoder,
        durations: DurationPredictor,
        flow: Flow,
        channels: int,
        voice_channels: int,
        n_speakers: int = 0,
        states: int = 1,
    ) -> None:
        super().__init__()
        self.mel = mel
        self.alphabet = alphabet
        self.numbers = {symbol: number for number, symbol in enumerate(symbols)}
        self.encoder = encoder
        self.states = states
        self.means = nn.Linear(channels, states * mel.n_mels)
        self.durations = durations
        self.flow = flow
        self.voices = nn.Embedding(max(1, n_speakers), voice_channels)
        self.n_speakers = n_speakers
        self.config: dict[str, Any] | None = None
        self.info: dict[str, Any] = {}
        self._missing: set[str] = set()  # that were warned of

    @property
    def speakers(self) -> nn.Embedding | None:
        """The embedding of the voices that have names; None where there is one voice."""
        return self.voices if self.n_speakers else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.means.weight.device

    def initialize(self, mel: Tensor) -> None:
        """Lets the flow's normalizations start from a mel (1, n_mels, F), F even."""
        self.flow.initialize(mel, Conditioning(self.voices.weight[:1].unsqueeze(-1)))

    def encode(self, text: str) -> Tensor:
        """Returns the numbers (1, S) of a text's symbols; a warning names those that the table lacks, once."""
        symbols = symbols_of(text, self.alphabet)
        missing = {symbol for symbol in symbols if symbol not in self.numbers}
        if new := sorted(missing - self._missing):
            self._missing.update(new)
            warnings.warn(f"The model has never heard {' '.join(map(repr, new))}, which it leaves out.", stacklevel=2)
        known = [symbol for symbol in symbols if symbol in self.numbers]
        if not set(known) - {" ", *PAUSES}:
            languages = {"phones": "English words", "characters": f"the characters {' '.join(self.numbers)}"}
            reads = languages.get(self.alphabet, f"text for {self.alphabet}")
            raise ValueError(f"`text` must hold something that can be spoken, got {text[:80]!r}: this model reads {reads}.")
        return torch.tensor([[self.numbers[symbol] for symbol in known]], device=self.device)

    def log_prob(
        self,
        mel: Tensor,
        symbols: Tensor,
        speaker: Tensor | None = None,
        frames: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Aligned:
        """Aligns mels and texts, and returns the exact log-density of the mels given that.

        Args:
            mel: (B, n_mels, F), F even.
            symbols: (B, S) numbers, see `encode`.
            speaker: Ids (B,), for a model with speakers.
            frames: (B,) frames of each mel, even; F where it is left out.
            lengths: (B,) symbols of each text; S where it is left out.

        Raises:
            ValueError: A text has more states than its mel has frames.
        """
        symbol_mask, frame_mask = self._mask(symbols, lengths), self._mask(mel, frames)
        n_states, n_frames = self.states * symbol_mask.sum(dim=1).long(), frame_mask.sum(dim=1).long()
        if (n_states > n_frames).any():
            which = int((n_states > n_frames).long().argmax())
            raise ValueError(
                f"`symbols` must be no more than {n_frames[which] // self.states}, got {n_states[which] // self.states}: each "
                f"takes {self.states} of {n_frames[which]} frames of mel at least; check that text and audio belong together."
            )
        voice = self._voice(speaker, len(mel))
        means, log_durations = self._read(symbols, symbol_mask, voice)
        z, log_det = self.flow.transform(mel, Conditioning(voice.unsqueeze(-1), mask=frame_mask))
        with torch.no_grad():
            durations = best_durations(z, means, n_states, n_frames)
        log_prob = self.flow.base_log_prob(z - _spread(means, durations, mel.shape[-1])) + log_det
        return Aligned(log_prob * frame_mask, durations.view_as(log_durations), log_durations)

    @torch.inference_mode()
    def sample(
        self,
        text: str | Tensor,
        temperature: float = TEMPERATURE,
        length_scale: float = 1.0,
        guidance: float = GUIDANCE,
        speaker: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Returns a mel (1, n_mels, F) of a text, in the model's mel convention.

        Args:
            text: One sentence, or a few: what it costs grows with the square of its length. Or its symbols (1, S), see
                `encode`.
            temperature: Multiplies the noise around the means.
            length_scale: Multiplies the durations: 2 is half as fast.
            guidance: Multiplies how far the means of the frames are from their average c; 1 gives the model's own density. It
                is classifier-free guidance: with p(z) = N(c, 1), p(z | text)^guidance * p(z)^(1 - guidance) is Gaussian around
                these means (Ho & Salimans, 2022, https://arxiv.org/abs/2207.12598).
            speaker: Id (1,), for a model with speakers.
            generator: Of the noise.
        """
        if not (temperature >= 0 and length_scale > 0 and guidance >= 0):
            raise ValueError(
                "`temperature` and `guidance` must be at least 0 and `length_scale` above 0, got "
                f"{temperature}, {guidance} and {length_scale}."
            )
        symbols, voice = self.encode(text) if isinstance(text, str) else text, self._voice(speaker, 1)
        means, log_durations = self._read(symbols, self._mask(symbols, None), voice)
        ends = (log_durations.flatten(1).double().exp() * length_scale).cumsum(dim=1).round().long()
        durations = ends.diff(dim=1, prepend=ends.new_zeros(1, 1)).clamp_min(1)
        durations[:, -1] += -durations.sum() % FOLD
        length = int(durations.sum())
        means = _spread(means, durations, length)
        means = means.mean(dim=2, keepdim=True).lerp(means, guidance)
        z = means + self.flow.noise(tuple(means.shape), temperature, generator, like=means)
        return self.flow.sample(z, Conditioning(voice.unsqueeze(-1))).clamp_min(math.log(MEL_FLOOR))

    def _voice(self, speaker: Tensor | None, batch: int) -> Tensor:
        """Returns the embedding (B, voice_channels) of each item's voice."""
        check_speaker(speaker, self.n_speakers)
        return self.voices(torch.zeros(batch, dtype=torch.long, device=self.device) if speaker is None else speaker)

    def _mask(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Returns (B, N), 1 before each length and 0 behind, for x (B, ..., N)."""
        mask = torch.ones(x.shape[0], x.shape[-1], dtype=self.means.weight.dtype, device=x.device)
        return mask if lengths is None else mask * (torch.arange(x.shape[-1], device=x.device) < lengths.to(x.device)[:, None])

    def _read(self, symbols: Tensor, mask: Tensor, voice: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the means (B, n_mels, S * states) of the states and their log durations (B, S, states)."""
        mask = mask.unsqueeze(-1)
        features = self.encoder(symbols, mask)
        # detached: the durations come from the alignment, which the encoder itself decides
        seen = torch.cat([features.detach(), voice.unsqueeze(1).expand(-1, symbols.shape[1], -1)], dim=-1)
        means = self.means(features).unflatten(-1, (self.states, -1)).flatten(1, 2)
        return means.transpose(1, 2), self.durations(seen, mask)


def best_durations(z: Tensor, means: Tensor, n_means: Tensor, n_frames: Tensor) -> Tensor:
    """Returns the durations (B, S) that make z (B, C, F) most likely as Gaussians of deviation 1 around means (B, C, S)."""
    z, means = at_least_float32(z), at_least_float32(means)
    with torch.autocast(z.device.type, enabled=False):  # in bfloat16, rounding would choose between symbols that are near
        scores = z.transpose(1, 2) @ means - 0.5 * means.square().sum(dim=1, keepdim=True)  # up to what all means share
    durations = torch.zeros(means.shape[0], means.shape[2], dtype=torch.long)
    align_monotonically(
        scores.double().cpu().contiguous().numpy(), n_means.cpu().numpy(), n_frames.cpu().numpy(), durations.numpy()
    )
    return durations.to(z.device)


def text_to_mel(
    mel: dict[str, Any] | None = None,
    symbols: Sequence[str] = (),
    alphabet: str = "phones",
    channels: int = 128,
    layers: int = 4,
    heads: int = 2,
    dropout: float = 0.1,
    blocks: int = 8,
    block_layers: int = 4,
    block_channels: int = 96,
    kernel_size: int = 3,
    voice_channels: int = 64,
    n_speakers: int = 0,
    states: int = 1,
) -> TextToMel:
    """Builds a model that speaks: text in, mel out.

    Args:
        mel: Arguments of `MelSpectrogram`; those of the vocoder.
        symbols: The table of symbols.
        alphabet: "phones", "characters" or the name of a voice of espeak-ng, see `wavflow.text`.
        channels: Width of the encoder and of the predictor of durations.
        layers: Of the encoder's attention.
        heads: Of each attention.
        dropout: Of the encoder, the predictor, and of what the couplings keep.
        blocks: Of the flow: normalization, mixing of channels, coupling.
        block_layers: Layers of the net of each coupling.
        block_channels: Their width.
        kernel_size: Their taps.
        voice_channels: Width of the embedding of a voice.
        n_speakers: Voices; 0 for one without a name.
        states: Of each symbol, see `TextToMel`.

    Returns:
        An untrained `TextToMel`; its couplings are the identity.
    """
    at_least(1, blocks=blocks, states=states)
    config = {"_target_": "wavflow.models.text_to_mel", **locals(), "symbols": list(symbols)}
    spectrogram = MelSpectrogram(**(mel or {}))
    config["mel"] = spectrogram.spec
    width = FOLD * spectrogram.n_mels

    def block() -> list[Any]:
        kept, changed = Coupling.halves(width)
        net = WaveNet(
            kept, 2 * changed, block_layers, block_channels, kernel_size, 1, None, voice_channels, causal=False, dropout=dropout
        )
        return [ActNorm(width), Grouped(InvertibleLinear(4)), Coupling(Affine(), net, width)]

    flow = Flow(Folded(Chain([transform for _ in range(blocks) for transform in block()]), FOLD), Gaussian())
    encoder = TextEncoder(max(1, len(symbols)), channels, layers, heads, dropout)
    durations = DurationPredictor(channels + voice_channels, channels, dropout, states)
    model = TextToMel(spectrogram, symbols, alphabet, encoder, durations, flow, channels, voice_channels, n_speakers, states)
    model.config = config
    return model


def _spread(means: Tensor, durations: Tensor, frames: int) -> Tensor:
    """Repeats the means (B, C, S) of the symbols over their frames: (B, C, F); the last one's go on to the end."""
    ends = durations.cumsum(dim=1)
    at = torch.arange(frames, device=means.device).expand(len(means), -1).contiguous()
    which = torch.searchsorted(ends, at, right=True).clamp_max(means.shape[2] - 1)
    return means.gather(2, which.unsqueeze(1).expand(-1, means.shape[1], -1))
