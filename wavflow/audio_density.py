"""The density that every model of audio is: a flow over audio, given its mel spectrogram or nothing."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wavflow.arguments import as_tensor, at_least, check_signal, check_speaker
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Flow, Inverse, log_det_of_identity
from wavflow.flows.harmonic_source import HarmonicSource
from wavflow.flows.whitening import Whitening
from wavflow.mel import MelSpectrogram
from wavflow.mel_equalizer import MelEqualizer
from wavflow.nn.upsampler import Conditioning, Upsampler


class Draw(NamedTuple):
    """A sample and all that is known about it for free; `u` is the audio before the whitening is undone."""

    u: Tensor  # (B, 1, T) whitened audio
    z: Tensor  # (B, 1, T) the noise it came from
    log_prob: Tensor  # (B, T) log-density of u, nats
    log_scale: Tensor  # (B, T) log |du/dz|: u[t] = loc[t] + exp(log_scale[t]) * z[t], both from z[<t], for affine flows


class AudioDensity(nn.Module):
    """Density of audio given its mel: `x <-> whitening <-> u <-> flow <-> v <-> source <-> z`.

    log p(x | mel) = log p(u | mel) + log |du/dx|. Direction decides the role: a flow that scores in one pass is a teacher
    (MAF), one that draws in one pass a student (IAF).

    Mels, audio and noise may be tensors or NumPy arrays of any float type and device: they are taken to where the weights are,
    in the weights' dtype, or in float32 where the weights are of half precision. So is what comes back.

    Args:
        mel: The convention of the mels that it is conditioned on; it travels with the model. With no bands the model is
            unconditional: it takes `no_mel` wherever a mel is asked for.
        upsampler: From mels to the features that the flow's conditioners share.
        flow: Density of the whitened audio (B, 1, T).
        whitening: First map, by the mel itself; None for none.
        n_speakers: Size of the speaker embedding; 0 for none.
        source: Last map, of a student: pulses at the mel's pitch under its noise; None for noise alone.

    Attributes:
        config: How `wavflow.models` builds this model again; None for one that was put together by hand.
        info: Facts that its file told (steps, seconds of training ...).
    """

    def __init__(
        self,
        mel: MelSpectrogram,
        upsampler: Upsampler,
        flow: Flow,
        whitening: Whitening | None = None,
        n_speakers: int = 0,
        source: HarmonicSource | None = None,
    ) -> None:
        super().__init__()
        self.mel = mel
        self.equalizer = MelEqualizer(mel)
        self.upsampler = upsampler
        self.flow = flow
        self.whitening = whitening
        self.source = source
        self.speakers = nn.Embedding(n_speakers, upsampler.channels) if n_speakers else None
        if self.speakers is not None:
            nn.init.zeros_(self.speakers.weight)  # a speaker unseen in training falls back to the shared voice
        self.config: dict[str, Any] | None = None
        self.info: dict[str, Any] = {}

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.mel.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per mel frame."""
        return self.mel.hop_length

    @property
    def n_speakers(self) -> int:
        """How many speakers the model knows; 0 for a model without."""
        return 0 if self.speakers is None else self.speakers.num_embeddings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def draws_in_parallel(self) -> bool:
        """Whether a draw is one pass (a student) or T steps (a teacher)."""
        return not isinstance(self.flow.transform, Autoregressive)

    @property
    def scores_in_parallel(self) -> bool:
        """Whether a log-likelihood is one pass (a teacher) or T steps (a student)."""
        turned = (module.transform for module in self.modules() if isinstance(module, Inverse))
        return not any(isinstance(transform, Autoregressive) for transform in turned)

    @property
    def receptive_field(self) -> float:
        """Samples of noise (if it draws in parallel) or audio (if not) that a sample depends on, itself included."""
        return sum(self.flow.transform.context_of("inverse" if self.draws_in_parallel else "forward")) + 1

    def no_mel(self, seconds: float, batch: int = 1) -> Tensor:
        """Returns what an unconditional model takes for a mel: (B, 0, F), with F frames of at least that length."""
        frames = max(1, math.ceil(seconds * self.sample_rate / self.hop_length))
        return next(self.parameters()).new_zeros(batch, 0, frames)

    def conditioning(self, mel: Tensor, speaker: Tensor | None = None) -> Conditioning:
        """Returns what the flow is conditioned on, for a mel (B, n_mels, F) and speaker ids (B,)."""
        self.check_speaker(speaker)
        features = self.upsampler(mel)
        if speaker is not None and self.speakers is not None:
            features = features + self.speakers(speaker).unsqueeze(-1)
        return Conditioning(features, self.upsampler.kernel)

    def check_speaker(self, speaker: Tensor | None) -> None:
        """Raises ValueError where speaker ids are missing or unknown, or given to a model that knows no speakers."""
        check_speaker(speaker, self.n_speakers)

    def log_prob(
        self, audio: Tensor | np.ndarray, mel: Tensor | np.ndarray | None = None, speaker: Tensor | None = None
    ) -> Tensor:
        """Returns the exact log-density of audio (B, T) given its mel (B, n_mels, F): (B, T), nats per sample on [-1, 1).

        One pass for a teacher. A student (an IAF) has to undo its flows sample by sample: T steps for each. An unconditional
        model needs no mel.

        Raises:
            ValueError: When T is not F * hop_length.
        """
        audio = self._input("audio", audio)
        if mel is None:
            if self.mel.n_mels:
                raise ValueError("`mel` must be given, since this model needs one: the model's `mel(audio)` makes it.")
            mel = audio.new_zeros(len(audio), 0, audio.shape[-1] // self.hop_length)
        mel = self._input("mel", mel)
        self._check(mel, "audio", audio)
        u, log_det = self.whiten(audio, mel)
        v, log_slope = self.flow.transform(u, self.conditioning(mel, speaker))
        z, log_share = (v, log_det_of_identity(v)) if self.source is None else self.source(v, mel)
        return self.flow.base_log_prob(z) + log_slope + log_share + log_det

    def draw(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> Draw:
        """Draws whitened audio from noise (B, T), with its density; the training path of a student."""
        z = noise.unsqueeze(1)
        v, log_sigma = self.add_pulses(z, mel)
        u, log_slope = self.flow.transform.inverse(v, self.conditioning(mel, speaker))
        log_scale = log_slope + log_sigma
        return Draw(u, z, self.flow.base_log_prob(z) - log_scale, log_scale)

    def sample_and_log_prob(
        self,
        mel: Tensor | np.ndarray,
        noise: Tensor | np.ndarray | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws audio (B, F * hop_length) for a mel (B, n_mels, F), with its exact log-density (B, T) in nats per sample.

        The density is that of the audio returned here, which no equalizer has touched: `sample` with `passes=0`.

        One pass for a student, T cached steps for a teacher.

        Args:
            mel: (B, n_mels, F).
            noise: Standard noise (B, F * hop_length) that fixes the draw; see `noise`.
            temperature: Multiplies the noise; the density is that of the model, at temperature 1.
            generator: Where noise is drawn from if none is given.
            speaker: Ids (B,), for a model with speakers.

        Examples:
            >>> vocoder = wavflow.load_model("lj-student-fast")
            >>> audio, log_prob = vocoder.sample_and_log_prob(vocoder.mel(torch.zeros(1, 2560)))
            >>> torch.allclose(log_prob, vocoder.log_prob(audio, vocoder.mel(torch.zeros(1, 2560))), atol=1e-2)
            True
        """
        at_least(0.0, temperature=temperature)
        mel, noise = self._inputs(mel, noise, generator)
        draw = self.draw(mel, temperature * noise, speaker)
        audio, log_det = self.unwhiten(draw.u, mel)
        return audio, draw.log_prob - log_det

    def noise(self, mel: Tensor | np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard noise (B, F * hop_length) for a mel; from a CPU generator it is the same on every device.

        It is drawn frame by frame, (B, hop_length) each, so that a stream draws the same.
        """
        return self._noise(as_tensor("mel", mel), mel.shape[-1], generator)

    def _noise(self, like: Tensor, frames: int, generator: torch.Generator | None) -> Tensor:
        if not isinstance(generator, torch.Generator | None):
            kind = type(generator).__name__
            raise ValueError(f"`generator` must be torch's, got {kind}: torch.Generator().manual_seed(0) makes one.")
        device = like.device if generator is None else generator.device
        noise = torch.empty(frames, len(like), self.hop_length, dtype=like.dtype, device=device)
        for frame in noise.unbind():
            self.flow.base.fill_standard(frame, generator)
        return noise.transpose(0, 1).flatten(1).to(like.device)

    def add_pulses(self, z: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Maps noise z (B, 1, T) to v (B, 1, T), from which the flow draws; also log |dv/dz| (B, T)."""
        return (z, log_det_of_identity(z)) if self.source is None else self.source.inverse(z, mel)

    def whiten(self, audio: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Maps audio (B, T) to u (B, 1, T); also log |du/dx| (B, T)."""
        x = audio.unsqueeze(1)
        return (x, log_det_of_identity(x)) if self.whitening is None else self.whitening(x, mel)

    def unwhiten(self, u: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Maps u (B, 1, T) to audio (B, T); also log |dx/du| (B, T)."""
        x, log_det = (u, log_det_of_identity(u)) if self.whitening is None else self.whitening.inverse(u, mel)
        return x.squeeze(1), log_det

    def _inputs(
        self, mel: Tensor | np.ndarray, noise: Tensor | np.ndarray | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Returns mel and noise as the model takes them; draws the noise if none is given."""
        mel, noise = self._input("mel", mel), None if noise is None else self._input("noise", noise)
        self._check(mel, "noise", noise)
        return mel, self.noise(mel, generator) if noise is None else noise

    def _input(self, name: str, value: Tensor | np.ndarray) -> Tensor:
        weight, value = next(self.parameters()), as_tensor(name, value)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return value.to(weight.device, dtype) if value.is_floating_point() else value  # whole numbers are refused as they are

    def _check(self, mel: Tensor, name: str = "", signal: Tensor | None = None) -> None:
        if not torch.compiler.is_compiling():  # it looks at values: no part of a graph
            self.mel.check(mel)
        if signal is None:
            return
        check_signal(name, signal, len(mel))
        if signal.shape[-1] != mel.shape[-1] * self.hop_length:
            raise ValueError(
                f"`mel` has {mel.shape[-1]} frames of {self.hop_length} samples, `{name}` {signal.shape[-1]} samples, "
                f"not {mel.shape[-1] * self.hop_length}: cut or pad it to whole frames."
            )


def check_pair(student: AudioDensity, teacher: AudioDensity) -> None:
    """Raises ValueError unless a teacher can teach a student: the same mel, whitening and speakers."""
    if student.mel.spec != teacher.mel.spec:
        raise ValueError(f"`teacher` was trained on another mel: {teacher.mel.spec}; the student's is {student.mel.spec}.")
    maps = [None if w is None else {"order": w.order, "pitch": w.pitch} for w in (student.whitening, teacher.whitening)]
    if maps[0] != maps[1]:
        raise ValueError(f"`teacher` whitens by {maps[1]}, the student by {maps[0]}: they must share the map.")
    ours, theirs = student.n_speakers, teacher.n_speakers
    if ours != theirs:
        raise ValueError(f"`teacher` knows {theirs} speakers, the student {ours}: they must be the same.")
