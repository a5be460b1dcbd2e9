"""A map without parameters that makes the mel of a drawn waveform the mel that it was drawn for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.arguments import at_least
from wavflow.kernels import compiles
from wavflow.mel import MEL_FLOOR, POWER_FLOOR, MelSpectrogram
from wavflow.nn.exact_buffers import ExactBuffers

LARGEST_GAIN = 4.0
"""Nats by which one pass may raise or lower a band."""
OVERSHOOT = 1.9
"""Factor of all passes but the last: a sample lies in several frames, whose corrections blur each other, so that a pass of 1
falls short. From 2.1 on, many passes do not converge."""


class MelEqualizer(ExactBuffers):
    """Filters a drawn waveform, frame by frame, so that its mel comes near to the given one.

    A density p(x | mel) of ours spreads over waveforms whose mels differ from the given one; the true one does not, since the
    mel is a function of the waveform. One pass on y, with S its STFT and M the given log-mel:

        d  = clip(c (M - ln max(filterbank |S|, floor)), -4, 4)        by how many nats each band is off
        G  = d, interpolated from band centers to bins; 0 above f_max
        y' = y + overlap-add(irfft(S (exp(G) - 1)) w) / overlap-add(w^2)

    which is the weighted inverse STFT of S exp(G); c is 1 in the last pass and `OVERSHOOT` in those before it. Phases, fine
    structure and all above f_max stay those of the draw. Each pass comes nearer. Differentiable; of linear time; finite for
    any finite mel.

    The result has no density of its own: `Vocoder.log_prob` is that of the draw before it.

    Args:
        mel: The convention of the mels.

    References:
        The inverse STFT: Griffin & Lim, Signal estimation from modified short-time Fourier transform (1984), equation 6.
    """

    def __init__(self, mel: MelSpectrogram) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.n_mels = mel.n_fft, mel.hop_length, mel.n_mels
        self.padding, self.shortest_reflected = mel.padding, mel.shortest_reflected
        self.overlap = -(-mel.n_fft // mel.hop_length)  # frames that a sample is in
        if not mel.n_mels:
            return
        # Each band as a run of bins, and each bin between two bands: sums in one order for any number of frames, which a
        # matrix product does not promise.
        filterbank = mel.filterbank
        first = (filterbank > 0).int().argmax(dim=1)
        width = int((filterbank > 0).sum(dim=1).max())
        runs = (first.unsqueeze(1) + torch.arange(width)).clamp_max(filterbank.shape[1] - 1)
        used = first.unsqueeze(1) + torch.arange(width) < filterbank.shape[1]
        told = torch.arange(filterbank.shape[1]) * mel.sample_rate <= mel.f_max * mel.n_fft
        before = (mel.n_fft - mel.win_length) // 2
        window = functional.pad(mel.window.double(), (before, mel.n_fft - mel.win_length - before))
        # Sums of the first 0, 1 ... `overlap` hops of the squared window.
        squares = functional.pad(window.square(), (0, self.overlap * mel.hop_length - mel.n_fft)).unflatten(
            0, (-1, mel.hop_length)
        )
        self.run_weights = nn.Buffer(filterbank.gather(1, runs) * used, persistent=False)
        self.weights = nn.Buffer(functional.pad(squares.cumsum(dim=0), (0, 0, 1, 0)), persistent=False)
        self.runs, self.above, self.fraction, self.told, self.window = (
            nn.Buffer(value, persistent=False) for value in (runs, *mel.between_bands(), told, window)
        )

    def forward(self, audio: Tensor, mel: Tensor, passes: int = 1) -> Tensor:
        """Returns audio (B, F * hop_length) after `passes` passes toward the log-mel (B, n_mels, F).

        Raises:
            ValueError: When `passes` is below 0, or audio and mel differ in length.
        """
        if audio.ndim != 2 or audio.shape[-1] != mel.shape[-1] * self.hop_length:
            raise ValueError(
                f"`audio` must be (B, {mel.shape[-1] * self.hop_length}) for a mel of {mel.shape[-1]} frames, got "
                f"{tuple(audio.shape)}: cut or pad it to whole frames."
            )
        return self.stream(passes).push(audio, mel, last=True)

    def stream(self, passes: int) -> EqualizerStream:
        """Returns the same map for audio that comes piece by piece."""
        at_least(0, passes=passes)
        return EqualizerStream(self, passes if self.n_mels else 0)

    def look_ahead(self, passes: int) -> int:
        """Samples of the draw, after the end of a frame, that the equalized samples of that frame depend on."""
        last_frame = (self.padding[0] + self.hop_length - 1) // self.hop_length  # that overlaps the end of frame 0
        return passes * ((last_frame - 1) * self.hop_length + self.n_fft - self.padding[0]) if self.n_mels else 0

    def correction(self, frames: Tensor, mel: Tensor, factor: float = 1.0) -> Tensor:
        """Returns the windowed correction (B, F, n_fft) of frames of audio (B, F, n_fft) by their log-mels (B, n_mels, F).

        `factor` multiplies what a band is off.
        """
        if not frames.numel():
            return frames
        window = self.window.to(frames.dtype)
        spectrum = torch.fft.rfft(frames * window)
        if self._fits(spectrum):
            return torch.fft.irfft(self._corrected(spectrum, mel, factor), self.n_fft) * window
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + POWER_FLOOR)
        bands = (magnitude[..., self.runs] * self.run_weights.to(frames.dtype)).sum(dim=-1)
        off = factor * (mel.transpose(1, 2) - torch.log(bands.clamp_min(MEL_FLOOR)))
        off = off.clamp(-LARGEST_GAIN, LARGEST_GAIN)
        fraction = self.fraction.to(frames.dtype)
        gain = off[..., self.above - 1] * (1.0 - fraction) + off[..., self.above] * fraction
        return torch.fft.irfft(spectrum * torch.expm1(gain * self.told), self.n_fft) * window

    @staticmethod
    def _fits(spectrum: Tensor) -> bool:
        """Whether compiled code can take it: on a CPU, in float32, where no gradient is asked for."""
        if torch.compiler.is_compiling() or not compiles():
            return False
        return spectrum.device.type == "cpu" and spectrum.dtype == torch.complex64 and not spectrum.requires_grad

    def _corrected(self, spectrum: Tensor, mel: Tensor, factor: float) -> Tensor:
        """Replaces spectra (B, F, bins) by their corrections: those that `correction` computes in torch, up to rounding."""
        from wavflow.kernels import mel_gain  # Numba takes a second to import

        mel = mel.float().contiguous()
        for item, spectra in enumerate(torch.view_as_real(spectrum).numpy()):
            mel_gain.correct(spectra, mel[item].numpy(), *self._constants, np.float32(factor))
        return spectrum

    @cached_property
    def _constants(self) -> tuple[np.ndarray | np.float32 | int, ...]:
        """What `mel_gain.correct` takes of the mel's convention; made once, since streams take a few frames at a time."""
        bands = self.runs, self.run_weights.float(), self.above, self.fraction.float()
        limits = map(np.float32, (POWER_FLOOR, MEL_FLOOR, LARGEST_GAIN))
        return *(part.numpy() for part in bands), int(self.told.sum()), *limits


class EqualizerStream:
    """State of a streamed equalization: the pieces together are `MelEqualizer.forward` of the whole, to the last bit.

    Args:
        equalizer: The map.
        passes: How many.
    """

    def __init__(self, equalizer: MelEqualizer, passes: int) -> None:
        self.hop_length = equalizer.hop_length
        self.passes = [_Pass(equalizer, OVERSHOOT if i < passes - 1 else 1.0) for i in range(passes)]
        self.rest: Tensor | None = None  # less than a hop

    def push(self, audio: Tensor, mel: Tensor, last: bool = False) -> Tensor:
        """Takes further audio (B, N) and frames of the mel (B, n_mels, F); returns the audio that is ready, in whole hops.

        Args:
            audio: N a multiple of `hop_length`.
            mel: May come before the audio that it belongs to.
            last: Whether these are the last ones.
        """
        for one in self.passes:
            audio = one.push(audio, mel, last)
        audio = audio if self.rest is None else torch.cat([self.rest, audio], dim=-1)
        whole = audio.shape[-1] // self.hop_length * self.hop_length
        self.rest = audio[:, whole:]
        return audio[:, :whole]

    def push_pieces(self, pieces: Iterable[tuple[Tensor, bool]], mel: Tensor, last: bool = False) -> Tensor:
        """`push` for audio piece by piece, each as soon as it is there, and whether it is the last piece."""
        ready = []
        for audio, end in pieces:
            ready.append(self.push(audio, mel, last and end))
            mel = mel[..., :0]  # it came with the first piece
        return torch.cat(ready, dim=-1)


class _Pass:
    """State of one pass.

    Frame f is `padded[f * hop_length :][:n_fft]`. What no later frame overlaps is ready::

        padded     |<- padding ->|<- audio ...
        frame f    |xxxxx|             |
        frame f+1        |                   |
    """

    draw: Tensor
    mel: Tensor
    end: Tensor  # of the audio

    def __init__(self, equalizer: MelEqualizer, factor: float) -> None:
        self.equalizer, self.factor = equalizer, factor
        self.padded: Tensor | None = None  # audio from the start of the next frame on, once it can be padded

    def push(self, audio: Tensor, mel: Tensor, last: bool) -> Tensor:
        equalizer, hop = self.equalizer, self.equalizer.hop_length
        if self.padded is None:
            self._begin(audio, mel, last)
        else:
            self.draw, self.mel = torch.cat([self.draw, audio], dim=-1), torch.cat([self.mel, mel], dim=-1)
            self.padded, self.end = torch.cat([self.padded, audio], dim=-1), torch.cat([self.end, audio], dim=-1)
        if self.padded is None:
            return audio[:, :0]
        self.end = self.end[:, -equalizer.padding[1] - 1 :]
        if last:
            self.padded = torch.cat([self.padded, self.end[:, :-1].flip(-1)], dim=-1)
        count = min(max(0, self.padded.shape[-1] - equalizer.n_fft + hop) // hop, self.mel.shape[-1])
        frames = functional.pad(self.padded, (0, equalizer.n_fft)).unfold(1, equalizer.n_fft, hop)[:, :count]
        correction = self._overlap(equalizer.correction(frames, self.mel[..., :count], self.factor), last)
        self.padded, self.mel = self.padded[:, count * hop :], self.mel[..., count:]
        count = self.draw.shape[-1] if last else correction.shape[-1]
        equalized = self.draw[:, :count] + functional.pad(correction, (0, count - correction.shape[-1]))
        self.draw = self.draw[:, count:]
        return equalized

    def _begin(self, audio: Tensor, mel: Tensor, last: bool) -> None:
        """Collects audio until it is long enough to be padded, as the mel pads it."""
        equalizer = self.equalizer
        before = getattr(self, "draw", audio[:, :0]), getattr(self, "mel", mel[..., :0])
        self.draw, self.mel = torch.cat([before[0], audio], dim=-1), torch.cat([before[1], mel], dim=-1)
        short, self.skipped = self.draw.shape[-1] <= equalizer.shortest_reflected, equalizer.padding[0]
        if short and not last:
            return
        whole = functional.pad(self.draw, (0, equalizer.n_fft if short else 0))
        self.padded = torch.cat([whole[:, 1 : self.skipped + 1].flip(-1), whole], dim=-1)
        self.end = whole  # to be reflected
        self.sums = audio.new_zeros(audio.shape[0], equalizer.overlap - 1, equalizer.hop_length)
        self.hops = 0  # returned so far

    def _overlap(self, correction: Tensor, last: bool) -> Tensor:
        """Overlaps and adds corrections (B, F, n_fft) of further frames, the oldest first; returns what is ready (B, N)."""
        equalizer, frames = self.equalizer, correction.shape[1]
        pieces = functional.pad(correction, (0, equalizer.overlap * equalizer.hop_length - equalizer.n_fft))
        pieces = pieces.unflatten(-1, (equalizer.overlap, -1))
        total = functional.pad(self.sums, (0, 0, 0, frames))
        for k in reversed(range(equalizer.overlap)):  # from the oldest frame on
            total[:, k : k + frames] += pieces[:, :, k]
        total, self.sums = total.split([frames, equalizer.overlap - 1], dim=1)
        if last:
            total = torch.cat([total, self.sums], dim=1)
        weights = equalizer.weights.to(total.dtype)
        if last or self.hops < equalizer.overlap - 1:
            hop = torch.arange(self.hops, self.hops + total.shape[1], device=total.device)
            # After the last frame, the first hops of a window have no frame.
            first = (hop - self.hops - frames + 1).clamp_min(0) if last else 0
            weight = weights[(hop + 1).clamp_max(equalizer.overlap)] - weights[first]
        else:
            weight = weights[-1]
        self.hops += frames
        ready = (total / weight.clamp_min(0.1)).flatten(1)  # a window near 0 corrects next to nothing
        skipped = min(self.skipped, ready.shape[-1])  # what lies in the padding
        self.skipped -= skipped
        return ready[:, skipped:][:, : self.draw.shape[-1]]
