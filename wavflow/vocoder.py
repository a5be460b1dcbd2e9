"""The one model class. Teacher and student are made of it: a density of audio, and all ways to draw from it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavflow.arguments import at_least, check_signal
from wavflow.audio_density import AudioDensity
from wavflow.kernels import compiles
from wavflow.mel_scale import check_scale, warn_of_log10
from wavflow.synthesis.eager import EagerSampler
from wavflow.synthesis.noise import Noise
from wavflow.synthesis.parallel import ParallelEngine
from wavflow.synthesis.steps import StepEngine
from wavflow.vocoder_stream import VocoderStream

PASSES = 8
"""Of the `MelEqualizer`, by default: each costs little, and looks 3.5 frames further ahead. See docs/results.md."""


class Vocoder(AudioDensity):
    """Draws audio from a density given its mel: whole or in streams, by the fastest engine there is for it.

    Arguments and attributes are those of `AudioDensity`.
    """

    @cached_property
    def _engines(self) -> _Engines:
        return _Engines()

    def forward(self, specgrams: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`sample` as torchaudio calls a vocoder: returns waveforms (B, T) and, for lengths in frames, those in samples."""
        waveforms = self.sample(specgrams, lengths=lengths)
        return waveforms, None if lengths is None else torch.as_tensor(lengths) * self.hop_length

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

        The draw goes through `passes` passes of the `MelEqualizer`; `passes=0` gives the draw itself.

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
        at_least(0.0, temperature=temperature)
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
            self._check(mel)
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
        """Returns what `stream` pushes chunks through, for callers that push them when they come; arguments as in `stream`."""
        at_least(0.0, temperature=temperature)
        given = None if noise is None else Noise(self._input("noise", noise))

        def next_noise(like: Tensor, samples: int) -> Tensor:
            if given is None:
                return temperature * self._noise(like, samples // self.hop_length, generator)
            check_signal("noise", given.noise, len(like))
            return temperature * given(samples)

        return VocoderStream(self, self._sampler(dtype), self.equalizer.stream(passes), next_noise, speaker)

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


def _hub() -> Any:
    return importlib.import_module("wavflow.hub")  # above this module: it builds models


def _check_lengths(lengths: Tensor | Sequence[int], mel: Tensor) -> Tensor:
    """Returns the lengths (B,) of a batch's items, in frames; raises ValueError unless they can be."""
    values, (batch, *_, frames) = torch.as_tensor(lengths, device=mel.device), mel.shape
    if values.shape != (batch,) or not ((values >= 1) & (values <= frames) & (values == values.long())).all():
        raise ValueError(f"`lengths` must be {batch} whole numbers of frames in 1 ... {frames}, got {values.tolist()}.")
    return values.long()


class _Engines:
    """The engines of one model, one for each dtype of their matrices.

    An engine holds a copy of the weights. They can change in ways that torch does not count, such as a copy into `.data`. So
    the values from which the engines were made are kept, and each call compares them: 1 ms for a million weights, a thirtieth
    of what a draw of eight frames takes.
    """

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._made: dict[torch.dtype, StepEngine | ParallelEngine] = {}

    def __reduce__(self) -> tuple[type[_Engines], tuple[()]]:
        """Makes copies of a model start without engines: they hold the weights once more."""
        return _Engines, ()

    def get(self, vocoder: Vocoder, dtype: torch.dtype) -> StepEngine | ParallelEngine | None:
        """Returns the engine that draws with what the vocoder holds now; None where none can. See `Vocoder.engine`."""
        if not compiles() or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in vocoder.parameters()):
            return None
        values = [*vocoder.parameters(), *vocoder.buffers()]
        if len(values) != len(self._values) or not all(map(_equal, values, self._values)):
            self._values, self._made = [value.detach().clone() for value in values], {}
        if dtype not in self._made:
            if StepEngine.supports(vocoder.flow):
                self._made[dtype] = StepEngine(vocoder.flow, dtype)
            elif ParallelEngine.supports(vocoder):
                self._made[dtype] = ParallelEngine(vocoder, dtype)
        return self._made.get(dtype)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
