"""The one model class: a flow over audio, given its mel spectrogram or nothing. Teacher and student are made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wavflow.arguments import at_least
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Flow, Inverse, log_det_of_identity
from wavflow.flows.harmonic_source import HarmonicSource
from wavflow.flows.whitening import Whitening
from wavflow.mel import MelSpectrogram
from wavflow.mel_equalizer import MelEqualizer
from wavflow.mel_scale import check_scale, warn_of_log10
from wavflow.nn.upsampler import Conditioning, Upsampler
from wavflow.synthesis.parallel import Noise, ParallelEngine
from wavflow.synthesis.steps import StepEngine


class Draw(NamedTuple):
    """A sample and all that is known about it for free; `u` is the audio before the whitening is undone."""

    u: Tensor  # (B, 1, T) whitened audio
    z: Tensor  # (B, 1, T) the noise it came from
    log_prob: Tensor  # (B, T) log-density of u, nats
    log_scale: Tensor  # (B, T) log |du/dz|: u[t] = loc[t] + exp(log_scale[t]) * z[t], both from z[<t], for affine flows


class Vocoder(nn.Module):
    """Density of audio given its mel: `x <-> whitening <-> u <-> flow <-> v <-> source <-> z`.

    log p(x | mel) = log p(u | mel) + log |du/dx|. Direction decides the role: a flow that scores in one pass is a teacher
    (MAF), one that draws in one pass a student (IAF).

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
            nn.init.zeros_(self.speakers.weight)  # whom training does not hear keeps what all voices have in common
        self.config: dict[str, Any] | None = None
        self.info: dict[str, Any] = {}
        self._engines: dict[Any, Any] = {}

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.mel.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per mel frame."""
        return self.mel.hop_length

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
        return sum(self.flow.transform.reach_of("inverse" if self.draws_in_parallel else "forward")) + 1

    def no_mel(self, seconds: float, batch: int = 1) -> Tensor:
        """Returns what an unconditional model takes for a mel: (B, 0, F), with F frames of at least so many seconds."""
        frames = max(1, math.ceil(seconds * self.sample_rate / self.hop_length))
        return next(self.parameters()).new_zeros(batch, 0, frames)

    def conditioning(self, mel: Tensor, speaker: Tensor | None = None) -> Conditioning:
        """Returns what the flow is conditioned on, for a mel (B, n_mels, F) and speaker ids (B,)."""
        self.check_speaker(speaker)
        features = self.upsampler(mel)
        if speaker is not None:
            features = features + self.speakers(speaker).unsqueeze(-1)
        return Conditioning(features, self.upsampler.kernel)

    def check_speaker(self, speaker: Tensor | None) -> None:
        """Raises ValueError where speaker ids are missing or unknown, or given to a model that knows no speakers."""
        known = speaker is None or self.speakers is None or torch.compiler.is_compiling()
        known = known or bool(((speaker >= 0) & (speaker < self.speakers.num_embeddings)).all())
        if (speaker is None) != (self.speakers is None) or not known:
            needed = "no speaker" if self.speakers is None else f"speaker ids (B,) below {self.speakers.num_embeddings}"
            raise ValueError(f"`speaker`: this model takes {needed}, got {speaker}.")

    def log_prob(self, audio: Tensor, mel: Tensor | None = None, speaker: Tensor | None = None) -> Tensor:
        """Returns the exact log-density of audio (B, T) given its mel (B, n_mels, F): (B, T), nats per sample on [-1, 1).

        One pass for a teacher. A student (an IAF) has to undo its flows sample by sample: T steps for each. An unconditional
        model needs no mel.

        Raises:
            ValueError: When T is not F * hop_length.
        """
        mel = audio.new_zeros(len(audio), 0, audio.shape[-1] // self.hop_length) if mel is None else mel
        self._check(mel, audio.shape[-1])
        u, log_det = self.whiten(audio, mel)
        v, log_slope = self.flow.transform(u, self.conditioning(mel, speaker))
        z, log_share = (v, log_det_of_identity(v)) if self.source is None else self.source(v, mel)
        return self.flow.base_log_prob(z) + log_slope + log_share + log_det

    def draw(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> Draw:
        """Draws whitened audio from noise (B, T), with its density; the training path of a student."""
        z = noise.unsqueeze(1)
        v, log_sigma = self.excite(z, mel)
        u, log_slope = self.flow.transform.inverse(v, self.conditioning(mel, speaker))
        log_scale = log_slope + log_sigma
        return Draw(u, z, self.flow.base_log_prob(z) - log_scale, log_scale)

    def sample_and_log_prob(
        self,
        mel: Tensor,
        noise: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws audio (B, F * hop_length) for a mel (B, n_mels, F), with its exact log-density (B, T) in nats per sample.

        One pass for a student, T cached steps for a teacher.

        Args:
            mel: (B, n_mels, F).
            noise: Standard noise (B, F * hop_length) that fixes the draw; see `noise`.
            temperature: Multiplies the noise; the density is that of the model, at temperature 1.
            generator: Where noise is drawn from if none is given.
            speaker: Ids (B,), for a model with speakers.
        """
        self._check(mel, None if noise is None else noise.shape[-1])
        noise = self.noise(mel, generator) if noise is None else noise
        draw = self.draw(mel, temperature * noise, speaker)
        audio, log_det = self.colour(draw.u, mel)
        return audio, draw.log_prob - log_det

    @torch.no_grad()
    def sample(
        self,
        mel: Tensor,
        noise: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
        segment_frames: int = 128,
        fast: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws audio (B, F * hop_length); arguments as in `sample_and_log_prob`.

        In float32 on a CPU an engine draws, see `engine`: the same to 1e-5, a teacher's steps some 60 times faster, a student
        some 2 to 5 times. `dtype` is that of its matrices. `fast=False` draws with the flow itself.

        Where there is no engine and the flow's reach is short enough (a student's, a coupling's) it draws in segments, so that
        memory for its layers does not grow with the length. Each segment starts and ends that much outside itself, so the audio
        is that of one pass.
        """
        self._check(mel, None if noise is None else noise.shape[-1])
        check_scale(mel, self.mel)
        warn_of_log10(mel, self.mel, stacklevel=3)
        noise = temperature * (self.noise(mel, generator) if noise is None else noise)
        engine = self.engine(dtype) if fast and noise.dtype == torch.float32 else None
        if isinstance(engine, ParallelEngine):
            return engine.sample_and_log_prob(mel, noise, speaker)[0]
        z, cond = self.excite(noise.unsqueeze(1), mel)[0], self.conditioning(mel, speaker)
        if isinstance(engine, StepEngine):
            return self.colour(engine.sample(z, cond), mel)[0]
        before, after = self.flow.transform.reach
        if before + after > 4 * segment_frames * self.hop_length:  # pieces would cost more than they save
            return self.colour(self.flow.sample(z, cond), mel)[0]
        # a frame more at either end: interpolation between frames needs both neighbours
        run_up, run_out = (-(-int(reach) // self.hop_length) + 1 for reach in (before, after))
        pieces, frames = [], mel.shape[-1]
        for first in range(0, frames, segment_frames):
            last = min(first + segment_frames, frames)
            start, stop = max(0, first - run_up), min(last + run_out, frames)
            part = Conditioning(cond.frames[..., start:stop], cond.kernel)
            u = self.flow.sample(z[..., start * self.hop_length : stop * self.hop_length], part)
            pieces.append(u[..., (first - start) * self.hop_length : (last - start) * self.hop_length])
        return self.colour(torch.cat(pieces, dim=-1), mel)[0]

    def stream(
        self,
        mel: Tensor | Iterable[Tensor],
        noise: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
        chunk_frames: int = 8,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[Tensor]:
        """Draws audio piece by piece as the mel comes: all pieces together are `sample` of the whole mel.

        A frame is drawn when the two after it are known. Memory does not grow with the length. By an engine (see there) pieces
        and whole are equal to the last bit, otherwise to rounding.

        Args:
            mel: Chunks (B, n_mels, F) of any lengths; or a whole mel, which is cut into chunks of `chunk_frames`.
            noise: Standard noise (B, T) that fixes the draw; drawn as it is needed if not given.
            temperature: Multiplies the noise.
            generator: Where noise is drawn from if none is given.
            speaker: Ids (B,), for a model with speakers.
            chunk_frames: Frames to a chunk of a whole mel.
            dtype: Of the engine's matrices, see `engine`.

        Yields:
            The next audio, (B, n) with n a multiple of `hop_length`.

        Raises:
            ValueError: For a model that is no student, or noise that ends before the mel.
        """
        from wavflow.synthesis.frame_step import FrameStream  # it builds on this file

        at_least(1, chunk_frames=chunk_frames)
        engine, stream, given = self.engine(dtype), None, None if noise is None else Noise(noise)

        def draw(samples: int) -> Tensor:
            if given is not None:
                return temperature * given(samples)
            return temperature * self._noise(chunk, samples, generator)

        for chunk in mel.split(chunk_frames, dim=-1) if isinstance(mel, Tensor) else mel:
            self.mel.check(chunk)
            check_scale(chunk, self.mel)
            if stream is None:
                fast = isinstance(engine, ParallelEngine)
                stream = engine.stream(len(chunk), speaker) if fast else FrameStream(self, len(chunk), speaker)
            audio, _ = stream.push(chunk, draw)
            if audio.shape[-1]:
                yield audio
        if stream is not None:
            yield stream.push(chunk[..., :0], draw, last=True)[0]

    def engine(self, dtype: torch.dtype = torch.float32) -> StepEngine | ParallelEngine | None:
        """Returns the fastest exact way to draw on a CPU in float32, made anew when weights have changed; None for none.

        Args:
            dtype: Of the engine's matrices: float32, or bfloat16 where the processor has it, for less than twice the speed.
        """
        parameters = list(self.parameters())
        if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in parameters):
            return None
        weights = [(p.data_ptr(), p._version) for p in parameters]
        if self._engines.get("weights") != weights:
            self._engines = {"weights": weights}
        if dtype not in self._engines:
            if StepEngine.supports(self.flow):
                self._engines[dtype] = StepEngine(self.flow, dtype)
            elif ParallelEngine.supports(self):
                self._engines[dtype] = ParallelEngine(self, dtype)
        return self._engines.get(dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the engines out of copies: they hold the weights once more."""
        return {**self.__dict__, "_engines": {}}

    def noise(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard noise (B, F * hop_length) for a mel; from a CPU generator it is the same on every device."""
        return self._noise(mel, mel.shape[-1] * self.hop_length, generator)

    def _noise(self, mel: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
        device = mel.device if generator is None else generator.device
        shape = (len(mel), samples)
        return self.flow.base.standard_noise(shape, generator=generator, dtype=mel.dtype, device=device).to(mel.device)

    def excite(self, z: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Maps noise z (B, 1, T) to v (B, 1, T), from which the flow draws; also log |dv/dz| (B, T)."""
        return (z, log_det_of_identity(z)) if self.source is None else self.source.inverse(z, mel)

    def whiten(self, audio: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Maps audio (B, T) to u (B, 1, T); also log |du/dx| (B, T)."""
        x = audio.unsqueeze(1)
        return (x, log_det_of_identity(x)) if self.whitening is None else self.whitening(x, mel)

    def colour(self, u: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Maps u (B, 1, T) to audio (B, T); also log |dx/du| (B, T)."""
        x, log_det = (u, log_det_of_identity(u)) if self.whitening is None else self.whitening.inverse(u, mel)
        return x.squeeze(1), log_det

    def _check(self, mel: Tensor, samples: int | None) -> None:
        if not torch.compiler.is_compiling():  # it looks at values: no part of a graph
            self.mel.check(mel)
        if samples is not None and samples != mel.shape[-1] * self.hop_length:
            raise ValueError(
                f"`mel` has {mel.shape[-1]} frames of {self.hop_length} samples, the audio or noise {samples} samples, "
                f"not {mel.shape[-1] * self.hop_length}: cut or pad it to whole frames."
            )


def check_pair(student: Vocoder, teacher: Vocoder) -> None:
    """Raises ValueError unless a teacher can teach a student: the same mel, whitening and speakers."""
    if student.mel.spec != teacher.mel.spec:
        raise ValueError(f"`teacher` was trained on another mel: {teacher.mel.spec}; the student's is {student.mel.spec}.")
    maps = [None if w is None else {"order": w.order, "pitch": w.pitch} for w in (student.whitening, teacher.whitening)]
    if maps[0] != maps[1]:
        raise ValueError(f"`teacher` whitens by {maps[1]}, the student by {maps[0]}: they must share the map.")
    speakers = [0 if model.speakers is None else model.speakers.num_embeddings for model in (student, teacher)]
    if speakers[0] != speakers[1]:
        raise ValueError(f"`teacher` knows {speakers[1]} speakers, the student {speakers[0]}: they must be the same.")
