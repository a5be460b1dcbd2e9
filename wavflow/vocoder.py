"""The one model class: a flow over audio, given its mel spectrogram or nothing. Teacher and student are made of it."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wavflow.arguments import as_tensor, at_least, check_speaker
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Flow, Inverse, log_det_of_identity
from wavflow.flows.harmonic_source import HarmonicSource
from wavflow.flows.whitening import Whitening
from wavflow.mel import MelSpectrogram
from wavflow.mel_equalizer import MelEqualizer
from wavflow.mel_scale import check_scale, warn_of_log10
from wavflow.nn.upsampler import Conditioning, Upsampler
from wavflow.synthesis.eager import EagerSampler
from wavflow.synthesis.engines import Engines
from wavflow.synthesis.noise import Noise
from wavflow.synthesis.parallel import ParallelEngine
from wavflow.synthesis.steps import StepEngine
from wavflow.vocoder_stream import VocoderStream

PASSES = 6
"""Of the `MelEqualizer`, by default: each costs little, and looks three frames further ahead. See docs/results.md."""


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
            nn.init.zeros_(self.speakers.weight)  # whom training does not hear keeps what all voices have in common
        self.config: dict[str, Any] | None = None
        self.info: dict[str, Any] = {}
        self._engines = Engines()

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], revision: str | None = None, device: str | torch.device = "cpu"
    ) -> Vocoder:
        """Loads a released name, a folder, or a hub repository; see `wavflow.hub`, as for the next two."""
        return _hub().from_pretrained(name, revision, device)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes weights and a model card."""
        _hub().save_pretrained(self, folder)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Uploads them to a hub repository; returns the commit's address."""
        return _hub().push_to_hub(self, name, **options)

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
        return sum(self.flow.transform.context_of("inverse" if self.draws_in_parallel else "forward")) + 1

    def no_mel(self, seconds: float, batch: int = 1) -> Tensor:
        """Returns what an unconditional model takes for a mel: (B, 0, F), with F frames of at least so many seconds."""
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
        check_speaker(speaker, 0 if self.speakers is None else self.speakers.num_embeddings)

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
        mel = audio.new_zeros(len(audio), 0, audio.shape[-1] // self.hop_length) if mel is None else self._input("mel", mel)
        self._check(mel, audio.shape[-1])
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
        mel, noise = self._inputs(mel, noise, generator)
        draw = self.draw(mel, temperature * noise, speaker)
        audio, log_det = self.unwhiten(draw.u, mel)
        return audio, draw.log_prob - log_det

    def forward(self, specgrams: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`sample` as torchaudio calls a vocoder: returns waveforms (B, T) and, for lengths in frames, those in samples."""
        return self.sample(specgrams, lengths=lengths), None if lengths is None else lengths * self.hop_length

    @torch.no_grad()
    def sample(
        self,
        mel: Tensor | np.ndarray,
        noise: Tensor | np.ndarray | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
        passes: int = PASSES,
        segment_frames: int = 128,
        fast: bool = True,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Draws audio (B, F * hop_length) whose mel is near the given one; arguments as in `sample_and_log_prob`.

        The draw goes through so many passes of the `MelEqualizer`; `passes=0` gives the draw itself.

        In float32 on a CPU an engine draws, see `engine`: the same to 1e-5, a teacher's steps some 60 times faster, a student
        some 2 to 5 times. `dtype` is that of its matrices; where no engine draws, another than float32 is refused. `fast=False`
        draws with the flow itself.

        With `lengths`, the frames of each item, items are drawn one by one: each as it is alone, with the first part of its
        row of the noise. Whatever the mel holds beyond them is ignored, and the audio there is zero.

        Where there is no engine, memory does not grow with the length either: see `EagerSampler` for `segment_frames`.

        Examples:
            >>> vocoder = wavflow.load_model("lj-student")
            >>> mel = vocoder.mel(torch.zeros(1, 22050))
            >>> vocoder.sample(mel, fast=False).shape  # 86 frames of 256 samples
            torch.Size([1, 22016])
        """
        mel = self._input("mel", mel)
        if lengths is not None:
            lengths = _check_lengths(lengths, mel)
            beyond = torch.arange(mel.shape[-1], device=mel.device) >= lengths.view(-1, 1, 1)
            mel = torch.where(beyond, mel[..., :1], mel)  # whatever stands there is not looked at
        mel, noise = self._inputs(mel, noise, generator)
        check_scale(mel, self.mel)
        warn_of_log10(mel, self.mel, stacklevel=3)
        noise, sampler = temperature * noise, self._sampler(dtype, fast, segment_frames)
        if lengths is None:
            return self.equalizer.stream(passes).push_pieces(sampler.pieces(mel, noise, speaker), mel, last=True)
        audio = torch.zeros_like(noise)
        for i, n in enumerate(lengths.tolist()):
            item, samples = slice(i, i + 1), n * self.hop_length
            frames, who = mel[item, :, :n], None if speaker is None else speaker[item]
            pieces = sampler.pieces(frames, noise[item, :samples], who)
            audio[item, :samples] = self.equalizer.stream(passes).push_pieces(pieces, frames, last=True)
        return audio

    def stream(
        self,
        mel: Tensor | np.ndarray | Iterable[Tensor | np.ndarray],
        noise: Tensor | np.ndarray | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
        chunk_frames: int = 8,
        passes: int = PASSES,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[Tensor]:
        """Draws audio piece by piece as the mel comes: all pieces together are `sample` of the whole mel.

        A frame is drawn when the two after it are known, and each pass of the equalizer looks ahead too, see
        `MelEqualizer.look_ahead`. Memory does not grow with the length. By an engine (see there) pieces
        and whole are equal to the last bit, otherwise to rounding. The weights are those of the moment at which it starts.

        Args:
            mel: Chunks (B, n_mels, F) of any lengths, F = 0 too; or a whole mel, which is cut into chunks of `chunk_frames`.
                All items are of one length.
            noise: Standard noise (B, T) that fixes the draw; drawn as it is needed if not given.
            temperature: Multiplies the noise.
            generator: Where noise is drawn from if none is given: the same as in `sample`.
            speaker: Ids (B,), for a model with speakers.
            chunk_frames: Frames to a chunk of a whole mel.
            passes: Of the `MelEqualizer`; 0 gives the draw itself.
            dtype: Of the engine's matrices, see `engine`.

        Yields:
            The next audio, (B, n) with n a multiple of `hop_length`.

        Raises:
            ValueError: For a model that is no student, or noise that ends before the mel.
        """
        at_least(1, chunk_frames=chunk_frames)
        stream = self.open_stream(noise, temperature, generator, speaker, passes, dtype)
        if isinstance(mel, Tensor | np.ndarray):
            mel = self._input("mel", mel)
            self._check(mel, None)
            mel = mel.split(chunk_frames, dim=-1)
        for frames in mel:
            audio = stream.push(frames)
            if audio.shape[-1]:
                yield audio
        if stream.started:
            yield stream.end()

    def open_stream(
        self,
        noise: Tensor | np.ndarray | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
        passes: int = PASSES,
        dtype: torch.dtype = torch.float32,
    ) -> VocoderStream:
        """Returns what `stream` pushes chunks through, for callers to whom the mel comes at times of its own; as `stream`."""
        given = None if noise is None else Noise(self._input("noise", noise))

        def draw(like: Tensor, samples: int) -> Tensor:
            more = self._noise(like, samples // self.hop_length, generator) if given is None else given(samples)
            return temperature * more

        return VocoderStream(self, self._sampler(dtype), self.equalizer.stream(passes), draw, speaker)

    def engine(self, dtype: torch.dtype = torch.float32) -> StepEngine | ParallelEngine | None:
        """Returns the fastest exact way to draw on a CPU in float32, made anew when weights have changed; None for none.

        Args:
            dtype: Of the engine's matrices: float32, or bfloat16 where the processor has it, for less than twice the speed.
        """
        return self._engines.get(self, dtype)

    def _sampler(self, dtype: torch.dtype, fast: bool = True, segment_frames: int = 128) -> ParallelEngine | EagerSampler:
        """Returns what draws; raises ValueError for a dtype that only an engine would have."""
        engine = self.engine(dtype) if fast else None
        if engine is None and dtype != torch.float32:
            raise ValueError(
                f"`dtype` is that of an engine's matrices, on a CPU, and no engine draws here: got {dtype}, leave it out."
            )
        return engine if isinstance(engine, ParallelEngine) else EagerSampler(self, engine, segment_frames)

    def noise(self, mel: Tensor | np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard noise (B, F * hop_length) for a mel; from a CPU generator it is the same on every device.

        It is drawn frame by frame, (B, hop_length) each, so that a stream draws the same.
        """
        return self._noise(as_tensor("mel", mel), mel.shape[-1], generator)

    def _noise(self, like: Tensor, frames: int, generator: torch.Generator | None) -> Tensor:
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
        mel = self._input("mel", mel)
        self._check(mel, None if noise is None else noise.shape[-1])
        return mel, self.noise(mel, generator) if noise is None else self._input("noise", noise)

    def _input(self, name: str, value: Tensor | np.ndarray) -> Tensor:
        weight, value = next(self.parameters()), as_tensor(name, value)
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        return value.to(weight.device, dtype) if value.is_floating_point() else value  # whole numbers are refused as they are

    def _check(self, mel: Tensor, samples: int | None) -> None:
        if not torch.compiler.is_compiling():  # it looks at values: no part of a graph
            self.mel.check(mel)
        if samples is not None and samples != mel.shape[-1] * self.hop_length:
            raise ValueError(
                f"`mel` has {mel.shape[-1]} frames of {self.hop_length} samples, the audio or noise {samples} samples, "
                f"not {mel.shape[-1] * self.hop_length}: cut or pad it to whole frames."
            )


def _hub() -> Any:
    return importlib.import_module("wavflow.hub")  # above this module: it builds models


def _check_lengths(lengths: Tensor | Sequence[int], mel: Tensor) -> Tensor:
    """Returns the lengths (B,) of a batch's items, in frames; raises ValueError unless they can be."""
    values, (batch, *_, frames) = torch.as_tensor(lengths, device=mel.device), mel.shape
    if values.shape != (batch,) or not ((values >= 1) & (values <= frames) & (values == values.long())).all():
        raise ValueError(f"`lengths` must be {batch} whole numbers of frames in 1 ... {frames}, got {values.tolist()}.")
    return values.long()


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
