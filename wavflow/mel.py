"""The mel spectrogram that conditions every model."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavflow.arguments import as_tensor, at_least_float32, no_such_signal
from wavflow.nn.exact_buffers import ExactBuffers

MEL_FLOOR = 1e-5
"""Band magnitudes below this count as this: a mel's least value is its natural log, -11.5."""

POWER_FLOOR = 1e-9
"""Is added to the power of each bin: the gradient of its root stays finite on digital silence."""


class MelSpectrogram(ExactBuffers):
    """Natural log of a magnitude mel spectrogram; T samples give exactly `T // hop_length` frames.

    `mel[f] = ln max(filterbank @ sqrt(re^2 + im^2 + 1e-9), 1e-5)` with Slaney's mel scale and area normalization.

    The default is the convention of HiFi-GAN and of the acoustic models made for it: reflect padding of
    (n_fft - hop_length) / 2 at either end, so that frame f is centered on the middle of the hop that it conditions.
    `center=True` is Tacotron 2's: reflect padding of n_fft / 2, so that frame f is centered on the *first* sample of its
    hop; the last frame, one too many, is dropped::

        samples        |---- hop f ----|--- hop f+1 ---|
        center=False           f              f+1
        center=True    f              f+1            (dropped at the end)

    Audio too short to be reflected (no longer than the padding) is followed by zeros instead, for the frames it has.

    Args:
        sample_rate: In Hz.
        n_fft: Length of the transform in samples, even.
        hop_length: Samples per frame, at most `n_fft`.
        win_length: Length of the (periodic) Hann window in samples, at most `n_fft`.
        n_mels: Number of bands; 0 for models without a mel, whose "mels" have a batch size, a length and a dtype alone.
        f_min: Lower edge of the lowest band, in Hz.
        f_max: Upper edge of the highest band, in Hz, at most half the sample rate.
        center: See above.

    Examples:
        >>> mel = MelSpectrogram()
        >>> mel(torch.zeros(1, 22050)).shape  # one second
        torch.Size([1, 80, 86])

    References:
        HiFi-GAN (Kong et al., 2020), https://arxiv.org/abs/2010.05646
        Tacotron 2 (Shen et al., 2018), section 2.1, https://arxiv.org/abs/1712.05884
    """

    def __init__(
        self,
        *,
        sample_rate: int = 22050,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int = 1024,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float = 8000.0,
        center: bool = False,
    ) -> None:
        super().__init__()
        self.sample_rate, self.n_fft, self.hop_length, self.win_length = sample_rate, n_fft, hop_length, win_length
        self.n_mels, self.f_min, self.f_max, self.center = n_mels, f_min, f_max, center
        self._check_arguments()
        self.window = nn.Buffer(torch.hann_window(win_length), persistent=False)
        self.filterbank = nn.Buffer(self._make_filterbank(), persistent=False)

    @property
    def spec(self) -> dict[str, Any]:
        """The constructor's arguments: what a model file stores, and `MelSpectrogram(**spec)` rebuilds."""
        names = ("sample_rate", "n_fft", "hop_length", "win_length", "n_mels", "f_min", "f_max", "center")
        return {name: getattr(self, name) for name in names}

    @property
    def frame_center(self) -> int:
        """Samples from `f * hop_length` to the peak of frame f's window: half a hop, or 0 where `center` is true."""
        return self.n_fft // 2 - self.padding[0]

    @property
    def shortest_reflected(self) -> int:
        """Audio of no more samples is followed by zeros before it is reflected."""
        return max(*self.padding, self.hop_length - 1)

    def frames_of(self, length: int, max_seconds: float | None = None) -> int:
        """Returns how many frames data of `length` samples has: all whole ones up to `max_seconds`, and one at least."""
        limit = length if max_seconds is None else int(max_seconds * self.sample_rate)
        return max(1, min(length, limit) // self.hop_length)

    def band_centers(self) -> Tensor:
        """Returns the centers of gravity of the bands, (n_mels,) in bins, float64."""
        filterbank = self.filterbank.double()
        return filterbank @ torch.arange(filterbank.shape[1]).double() / filterbank.sum(dim=1).clamp_min(1e-12)

    def between_bands(self) -> tuple[Tensor, Tensor]:
        """Returns how values at the band centers are interpolated to bins, linearly and held at the ends.

        Returns:
            For each bin (n_fft / 2 + 1,) the band above it, from 1 on, and that band's weight; the band below has the rest.
        """
        centers, bins = self.band_centers(), torch.arange(self.filterbank.shape[1]).double()
        above = torch.searchsorted(centers, bins).clamp(1, max(1, self.n_mels - 1))
        return above, ((bins - centers[above - 1]) / (centers[above] - centers[above - 1])).clamp(0.0, 1.0)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.spec.items())

    def forward(self, audio: Tensor | np.ndarray) -> Tensor:
        """Computes the mel in the audio's dtype, whatever autocast says (float32 for half precision).

        Args:
            audio: (B, T), in [-1, 1], T >= 1; an array goes to where this module is.

        Returns:
            (B, n_mels, T // hop_length), natural log.

        Raises:
            ValueError: The audio has another shape, or is not float.
        """
        audio = as_tensor("audio", audio, self.window.device)
        if audio.ndim != 2 or audio.shape[-1] < 1 or not audio.is_floating_point():
            raise no_such_signal("audio", "(B, T) with T >= 1", audio)
        frames = audio.shape[-1] // self.hop_length
        if not self.n_mels:
            return audio.new_zeros(len(audio), 0, frames)
        with torch.autocast(audio.device.type, enabled=False):  # else the filterbank would be applied in half precision
            audio = at_least_float32(audio)
            if audio.shape[-1] <= self.shortest_reflected:
                audio = nn.functional.pad(audio, (0, self.n_fft))
            audio = nn.functional.pad(audio, self.padding, mode="reflect")
            window = self.window.to(audio.dtype)
            stft = torch.stft(audio, self.n_fft, self.hop_length, self.win_length, window, center=False, return_complex=True)
            magnitude = torch.sqrt(stft.real.square() + stft.imag.square() + POWER_FLOOR)
            mel = self.filterbank.to(audio.dtype) @ magnitude
            return torch.log(mel.clamp(min=MEL_FLOOR))[..., :frames]

    def check(self, mel: Tensor, spec: dict[str, Any] | None = None) -> None:
        """Raises unless `mel` can be one of this spectrogram's.

        Args:
            mel: To be (B, n_mels, F), F >= 1, finite.
            spec: What is known of how it was made; compared with this one's.

        Raises:
            ValueError: It can't; the message says what is wrong.
        """
        if spec is not None and dict(spec) != self.spec:
            raise ValueError(
                f"`mel` must be made with the model's own settings {self.spec}, got one made with {dict(spec)}: "
                "compute it with the model's `mel`, or take a model trained for it."
            )
        if mel.ndim != 3 or mel.shape[1] != self.n_mels or mel.shape[2] < 1 or not mel.is_floating_point():
            remedy = f"compute it with {self.spec}" if self.n_mels else "this model takes none, see `Vocoder.no_mel`"
            raise ValueError(
                f"`mel` must be float (B, {self.n_mels}, F) with F >= 1, got {mel.dtype} {tuple(mel.shape)}: {remedy}."
            )
        if not torch.isfinite(mel).all():
            raise ValueError("`mel` must be finite, got NaN or inf: check the audio or the acoustic model it comes from.")

    @property
    def padding(self) -> tuple[int, int]:
        """Samples of padding before and after the audio."""
        if self.center:
            return self.n_fft // 2, self.n_fft // 2
        left = (self.n_fft - self.hop_length) // 2
        return left, self.n_fft - self.hop_length - left  # right gets the odd sample, else a frame would be missing

    def _check_arguments(self) -> None:
        for name in ("sample_rate", "n_fft", "hop_length", "win_length", "n_mels"):
            value, least = getattr(self, name), 0 if name == "n_mels" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be a whole number >= {least}, got {value!r}: correct the mel's settings.")
        if self.n_fft % 2:
            raise ValueError(f"`n_fft` must be even, got {self.n_fft}: take the next power of two.")
        for name in ("hop_length", "win_length"):
            if getattr(self, name) > self.n_fft:
                raise ValueError(f"`{name}` must be at most n_fft = {self.n_fft}, got {getattr(self, name)}: raise `n_fft`.")
        edges = (0, self.f_min, self.f_max, self.sample_rate / 2)
        if not all(isinstance(edge, (int, float)) for edge in edges) or not edges[0] <= edges[1] < edges[2] <= edges[3]:
            raise ValueError(
                f"`f_min` and `f_max` must satisfy 0 <= f_min < f_max <= {self.sample_rate / 2} Hz, half the sample "
                f"rate, got {self.f_min!r} and {self.f_max!r}: correct the mel's settings."
            )
        if not isinstance(self.center, bool):
            raise ValueError(f"`center` must be true or false, got {self.center!r}: correct the mel's settings.")

    def _make_filterbank(self) -> Tensor:
        """Returns Slaney's triangles (n_mels, n_fft / 2 + 1), each of area 1 over Hz, in the default dtype."""
        edges = _hertz(torch.linspace(_mels(self.f_min), _mels(self.f_max), self.n_mels + 2)).unsqueeze(1)
        low, center, high = edges[:-2], edges[1:-1], edges[2:]
        hertz = torch.linspace(0, self.sample_rate // 2, self.n_fft // 2 + 1)
        triangles = torch.minimum((hertz - low) / (center - low), (high - hertz) / (high - center)).clamp(min=0)
        if empty := int((triangles.sum(dim=1) == 0).sum()):
            raise ValueError(
                f"`n_mels` must leave no band without a frequency, got {self.n_mels} ({empty} empty with "
                f"n_fft {self.n_fft}): lower it or raise `n_fft`."
            )
        return triangles * (2 / (high - low))


# Slaney's scale: 15 mels are 1000 Hz; linear below, and above it 27 mels more for each factor of 6.4.
_KNEE, _HERTZ_PER_MEL, _LOG_STEP = 15, 200 / 3, math.log(6.4) / 27


def _mels(hertz: float) -> float:
    return hertz / _HERTZ_PER_MEL if hertz < 1000 else _KNEE + math.log(hertz / 1000) / _LOG_STEP


def _hertz(mels: Tensor) -> Tensor:
    return torch.where(mels < _KNEE, _HERTZ_PER_MEL * mels, 1000 * torch.exp(_LOG_STEP * (mels - _KNEE)))
