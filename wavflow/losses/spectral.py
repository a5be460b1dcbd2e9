"""Distances between magnitude spectrograms, differentiable everywhere, silence included.

The reverse KL alone lets a student grow quiet and hoarse while its KL falls; a term on the magnitudes holds it to the
level and the envelope of the recording. Magnitudes are `|S| = sqrt(re^2 + im^2 + eps)` with `eps` *inside* the root,
whose slope at digital silence would otherwise be infinite. All losses compute in float32 whatever autocast says
(float64 stays).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class _Magnitude(nn.Module):
    """Magnitude spectrogram, centered frames with reflected edges, Hann window.

    Signals shorter than `n_fft` are filled up with zeros at the end first: they are too short to reflect half a window.
    Bins above `band`, a share of the Nyquist frequency, are left out.
    """

    def __init__(self, n_fft: int, hop_length: int, win_length: int, eps: float, band: float = 1.0) -> None:
        super().__init__()
        if not 0 < win_length <= n_fft:
            raise ValueError(f"`win_length` must be in 1 .. n_fft = {n_fft}, got {win_length}: shorten it or enlarge `n_fft`.")
        if not 0 < hop_length <= win_length:
            raise ValueError(
                f"`hop_length` must be in 1 .. win_length = {win_length}, got {hop_length}: a longer hop skips samples."
            )
        if not eps > 0:
            raise ValueError(f"`eps` must be positive, got {eps}: without it the gradient of silence is not finite.")
        if not 0 < band <= 1:
            raise ValueError(f"`band` must be above 0 and at most 1, the Nyquist frequency, got {band}: 1 takes every bin.")
        self.bins = int(band * (n_fft // 2)) + 1
        self.n_fft, self.hop_length, self.win_length, self.eps = n_fft, hop_length, win_length, eps
        self.window = nn.Buffer(torch.hann_window(win_length), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Returns |S| (B, bins, frames) of `audio` (B, T)."""
        if audio.shape[-1] < self.n_fft:
            audio = nn.functional.pad(audio, (0, self.n_fft - audio.shape[-1]))
        window = self.window.to(audio.dtype)
        spectrum = torch.stft(audio, self.n_fft, self.hop_length, self.win_length, window, center=True, return_complex=True)
        spectrum = spectrum[:, : self.bins]
        return (spectrum.real.square() + spectrum.imag.square() + self.eps).sqrt()


def _checked(estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals in the precision of the loss; refuses what is not two equal, non-empty batches (B, T)."""
    if estimate.dim() != 2 or estimate.shape != target.shape or estimate.numel() == 0:
        raise ValueError(
            "`estimate` and `target` must have one shape (B, T) with B, T >= 1, "
            f"got {tuple(estimate.shape)} and {tuple(target.shape)}: drop the channel axis or cut to equal length."
        )
    if not (estimate.is_floating_point() and target.is_floating_point()):
        raise ValueError(
            f"`estimate` and `target` must be floating point in [-1, 1), got {estimate.dtype} and {target.dtype}: "
            "divide 16-bit integers by 32768."
        )
    wide = torch.promote_types(torch.promote_types(estimate.dtype, target.dtype), torch.float32)
    return estimate.to(wide), target.to(wide)


class MultiResolutionSTFTLoss(nn.Module):
    """Spectral convergence plus log-magnitude distance, averaged over several STFT resolutions.

    Per resolution `|| |T| - |E| ||_F / || |T| ||_F + mean | ln|T| - ln|E| |`, for target T and estimate E. Several
    windows at once keep the estimate from fitting the time-frequency trade-off of a single one.

    The Frobenius norms run over the whole batch, so a silent crop among speech does not blow the first term up. Not
    symmetric: the target is the yardstick.

    Args:
        fft_sizes: FFT lengths in samples, one per resolution.
        hop_lengths: Hops in samples.
        win_lengths: Lengths of the Hann windows in samples.
        eps: Power added under the root. 1e-7 stands near what the rounding noise of 16-bit audio has in a bin.
        band: Share of 0 .. Nyquist that counts, from below; 1 takes every bin.

    Raises:
        ValueError: If the three sequences differ in length or are empty, or a hop, window or band does not fit.

    References:
        Parallel WaveGAN (Yamamoto et al., 2020), section 2.2, https://arxiv.org/abs/1910.11480; spectral convergence:
        Arik et al., 2019, https://arxiv.org/abs/1808.06719
    """

    def __init__(
        self,
        fft_sizes: Sequence[int] = (1024, 2048, 512),
        hop_lengths: Sequence[int] = (120, 240, 50),
        win_lengths: Sequence[int] = (600, 1200, 240),
        eps: float = 1e-7,
        band: float = 1.0,
    ) -> None:
        super().__init__()
        if not len(fft_sizes) == len(hop_lengths) == len(win_lengths) > 0:
            raise ValueError(
                "`fft_sizes`, `hop_lengths` and `win_lengths` must have one entry per resolution, "
                f"got {len(fft_sizes)}, {len(hop_lengths)} and {len(win_lengths)}: make them equally long."
            )
        sizes = zip(fft_sizes, hop_lengths, win_lengths, strict=True)
        self.magnitudes = nn.ModuleList(_Magnitude(*size, eps, band) for size in sizes)

    def terms(self, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Returns spectral convergence and log-magnitude distance (nats), two scalars whose sum is the loss.

        Args:
            estimate: (B, T), audio of the model in [-1, 1).
            target: (B, T), the recording, aligned to the sample.

        Raises:
            ValueError: If the shapes differ or are not (B, T).
        """
        estimate, target = _checked(estimate, target)
        convergence, distance = [], []
        for magnitude in self.magnitudes:
            found, wanted = magnitude(estimate), magnitude(target)
            convergence.append(torch.linalg.vector_norm(wanted - found) / torch.linalg.vector_norm(wanted))
            distance.append((wanted.log() - found.log()).abs().mean())
        return torch.stack(convergence).mean(), torch.stack(distance).mean()

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar; exactly 0 for identical signals. Arguments as for `terms`."""
        convergence, distance = self.terms(estimate, target)
        return convergence + distance


class MagnitudeLoss(nn.Module):
    """Mean squared error of one magnitude spectrogram, with an extra term for the low band.

    `mean (|E| - |T|)^2 + mean over bins below low_band_hz of (|E| - |T|)^2`. On |S|, not on |S|^2 nor on its log: both
    are reported to leave noise. Loud bins dominate, so it holds the level and the voiced harmonics, not the quiet ones.

    Args:
        n_fft: FFT length in samples.
        hop_length: Hop in samples. The paper has 12.5 ms; here a round 256, 11.6 ms at 22.05 kHz.
        win_length: Length of the Hann window in samples. The paper has 50 ms; here 1024, 46 ms.
        sample_rate: In Hz; tells which bins lie below `low_band_hz`.
        low_band_hz: Upper edge of the band of the extra term; at most the Nyquist frequency.
        eps: Power added under the root.

    Raises:
        ValueError: If a length does not fit, or the low band does not end within 0 .. Nyquist.

    References:
        ClariNet (Ping et al., 2019), section 3.3 (STFT loss), https://arxiv.org/abs/1807.07281
    """

    def __init__(
        self,
        n_fft: int = 2048,
        hop_length: int = 256,
        win_length: int = 1024,
        sample_rate: int = 22050,
        low_band_hz: float = 3000.0,
        eps: float = 1e-7,
    ) -> None:
        super().__init__()
        self.magnitude = _Magnitude(n_fft, hop_length, win_length, eps)
        if not 0 < low_band_hz <= sample_rate / 2:
            raise ValueError(
                f"`low_band_hz` must be above 0 and at most sample_rate / 2 = {sample_rate / 2:g} Hz, "
                f"got {low_band_hz}: lower it or check `sample_rate`."
            )
        # Bin k stands at k * sample_rate / n_fft; those strictly below the edge are in, and bin 0 always is.
        self.low_bins = sum(k * sample_rate < low_band_hz * n_fft for k in range(n_fft // 2 + 1))

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar, for `estimate` and `target` (B, T).

        Raises:
            ValueError: If the shapes differ or are not (B, T).
        """
        estimate, target = _checked(estimate, target)
        error = (self.magnitude(estimate) - self.magnitude(target)).square()
        return error.mean() + error[:, : self.low_bins].mean()


class PowerLoss(nn.Module):
    """Squared log-ratio of the time-averaged power, mean over items and bins: what holds the level.

    A distance between single frames draws a random signal towards quiet: whatever does not match costs less when it is small.
    The average over time does not tell which frame is loud, and so has no such bias. The paper takes the difference of powers;
    here it is that of their logarithms, since the loudest bins would be all that counts.

    References:
        Parallel WaveNet (van den Oord et al., 2017), section 4.1, "power loss", https://arxiv.org/abs/1711.10433
    """

    def __init__(self, n_fft: int = 1024, hop_length: int = 256, win_length: int = 1024, eps: float = 1e-7) -> None:
        super().__init__()
        self.magnitude = _Magnitude(n_fft, hop_length, win_length, eps)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar in squared nats, for `estimate` and `target` (B, T).

        Raises:
            ValueError: If the shapes differ or are not (B, T).
        """
        estimate, target = _checked(estimate, target)
        powers = (self.magnitude(signal).square().mean(dim=-1) for signal in (estimate, target))
        ours, theirs = (power.log() for power in powers)
        return (ours - theirs).square().mean()
