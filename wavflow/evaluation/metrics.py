"""Distances between two clips: level and spectra.

Each takes a generated clip and the recording, `reference`: (T,) floats in [-1, 1), aligned and equally long
(wavflow/evaluation/alignment.py): 64 samples of lag cost more than most models differ by. A ValueError names a clip of another
kind. Where a metric has no value (silence, nothing voiced) it is `nan`, and `mean_interval` leaves it out. Sample rates are in
Hz.
"""

import functools
import math

import torch

from wavflow.clips import Audio, checked_clip, checked_pair
from wavflow.losses import MultiResolutionSTFTLoss
from wavflow.mel import MelSpectrogram


def level_db(generated: Audio, reference: Audio) -> float:
    """Level (RMS) of `generated` over `reference` in dB; `-inf` if only `generated` is silent, `nan` if `reference` is."""
    clips = checked_clip("generated", generated), checked_clip("reference", reference)
    ours, theirs = (clip.square().mean().sqrt().item() for clip in clips)
    if not theirs:
        return math.nan
    return 20 * math.log10(ours / theirs) if ours else -math.inf


def log_spectral_distance(generated: Audio, reference: Audio) -> float:
    """Log-spectral distance in dB: per frame the RMS over bins of the level difference, then the mean over frames.

    `mean_f sqrt(mean_k (L_gen[k, f] - L_ref[k, f])^2)`, `L = max(20 log10 |S| / |S_full|, -100)`. STFT of 1024 samples,
    hop 256, periodic Hann window, centered frames, zeros beyond the ends; S_full is the bin of a full-scale sine. All bins
    from 0 to the Nyquist frequency count alike. Below -100 dB lies the rounding noise of 16-bit audio.
    """
    window = torch.hann_window(1024, dtype=torch.float64)
    full_scale = window.sum() / 2
    signals = torch.stack(checked_pair(generated, reference))
    spectrum = torch.stft(signals, 1024, 256, window=window, pad_mode="constant", return_complex=True)
    level = 20 * (spectrum.abs() / full_scale).clamp(min=1e-5).log10()
    return (level[0] - level[1]).square().mean(dim=0).sqrt().mean().item()


def m_stft(generated: Audio, reference: Audio, sample_rate: int, f_max: float | None = None) -> float:
    """Multi-resolution STFT distance, `wavflow.losses.MultiResolutionSTFTLoss` with its default windows, 0 if identical.

    The windows are fixed in samples, so that values at different sample rates don't compare; the published ones are of
    22.05 kHz, and have its `eps` of 1e-8, on which the value of a system without a high band depends (Griffin-Lim from an
    8 kHz mel: 1.87; 1.57 with the training loss's 1e-7). Not symmetric: the reference is the yardstick. In float32.

    Args:
        sample_rate: In Hz.
        f_max: Upper edge of the band that counts, in Hz; the Nyquist frequency where it is `None` or higher than that.

    Returns:
        `nan` if the reference is silent.
    """
    generated, reference = checked_pair(generated, reference)
    if not reference.any():
        return math.nan
    distance = MultiResolutionSTFTLoss(eps=1e-8, band=1.0 if f_max is None else min(1.0, 2 * f_max / sample_rate))
    return distance(generated[None].float(), reference[None].float()).item()


@functools.cache
def judging_mel(sample_rate: int, f_max: float | None = None) -> MelSpectrogram:
    """Returns the mel that `mel_l1` compares by: 80 bands up to `f_max`, windows of about 46 ms, a hop of a quarter.

    At 22.05 kHz that is a window of 1024 and a hop of 256 samples. With 8 kHz it is the usual vocoder's own input; the full
    band, `f_max=None`, also tells what the vocoder adds above it. The module is shared: don't change it.
    """
    n_fft = 2 ** round(math.log2(0.046 * sample_rate))
    nyquist = sample_rate / 2
    return MelSpectrogram(
        sample_rate=sample_rate,
        n_fft=n_fft,
        hop_length=n_fft // 4,
        win_length=n_fft,
        f_max=nyquist if f_max is None else min(f_max, nyquist),
    )


def mel_l1(generated: Audio, reference: Audio, mel_module: MelSpectrogram) -> float:
    """Mean absolute difference of the two log-mel spectrograms, in nats.

    Args:
        mel_module: Yields the natural log of the mel; its `f_max` says which band counts, see `judging_mel`.

    Returns:
        `nan` if the clips are shorter than a hop.
    """
    signals = torch.stack(checked_pair(generated, reference)).to(mel_module.window.device)
    mel = mel_module(signals)
    return (mel[0] - mel[1]).abs().mean().item()
