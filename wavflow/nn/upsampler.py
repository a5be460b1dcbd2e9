"""From mel frames to samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


def interpolation_weights(factor: int, center: float) -> Tensor:
    """Returns the weights (3, factor) of the frames f - 1, f, f + 1 at the samples f * factor ... of linear interpolation.

    Sample j sits at (j + 0.5); frame f sits `center` samples after f * factor:

        frame      f-1         f          f+1
        sample   . . . . | 0 1 2 3 | . . . . |      factor = 4, center = 2
    """
    distance = (torch.arange(factor, dtype=torch.float64) + 0.5 - center) / factor
    if not -1.0 <= distance.min() <= distance.max() <= 1.0:
        raise ValueError(f"`center` must lie within the frame's {factor} samples, got {center}.")
    return torch.stack([(-distance).clamp_min(0.0), 1.0 - distance.abs(), distance.clamp_min(0.0)])


def interpolate(frames: Tensor, kernel: Tensor) -> Tensor:
    """Upsamples frames (B, F, C) to (B, F * factor, C) with a kernel (3, factor); the edge frames are held.

    One kernel serves all channels, so any projection of the channels commutes with it: project at frame rate.
    """
    return interpolate_inner(torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1), kernel)


def interpolate_inner(frames: Tensor, kernel: Tensor) -> Tensor:
    """Upsamples frames (B, F + 2, C) but the first and the last one to (B, F * factor, C)."""
    neighbors = frames.unfold(1, 3, 1).transpose(2, 3)  # (B, F, 3, C)
    return (kernel.to(frames).T @ neighbors).flatten(1, 2)


@dataclass(frozen=True)
class Conditioning:
    """Features at frame rate and the kernel that takes frames to samples; what a conditioner is conditioned on.

    Args:
        frames: Features (B, K, context + F + context); without a kernel (B, K, 1) for features that are the same at all times.
        kernel: Interpolation weights (3, hop_length); None where there is a feature vector for each sample.
        context: 1 where there is one more frame on either side, which is interpolated with; 0 where the edges are held.
        mask: (B, T), 1 on the signal and 0 on the padding of a batch of several lengths; a net sees zeros there,
            as it does beyond the ends of a signal. None for a batch of one length.
    """

    frames: Tensor
    kernel: Tensor | None = None
    context: int = 0
    mask: Tensor | None = None

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return 1 if self.kernel is None else self.kernel.shape[-1]

    @property
    def lengths(self) -> list[int] | None:
        """Time steps of each item, by the mask."""
        return None if self.mask is None else self.mask.sum(dim=1).long().tolist()

    def kernel_over(self, length: int) -> Tensor | None:
        """Returns the kernel; for features that are the same at all times, one that holds their frame for `length` samples."""
        if self.kernel is not None or self.frames.shape[2] > 1:
            return self.kernel
        return self.frames.new_tensor([[0.0], [1.0], [0.0]]).expand(-1, length)

    def folded(self, factor: int) -> Conditioning:
        """Returns the conditioning of a signal that is folded `factor` samples to a time step: the mean of each group.

        Raises:
            ValueError: When a frame is no whole number of such steps.
        """
        if factor == 1:
            return self
        mask = None if self.mask is None else self.mask[:, ::factor]
        if self.kernel is None:
            same = self.frames.shape[-1] == 1
            return replace(self, frames=self.frames if same else self.frames.unflatten(-1, (-1, factor)).mean(-1), mask=mask)
        if self.hop_length % factor:
            raise ValueError(f"`factor` must divide a frame's {self.hop_length} samples, got {factor}.")
        return replace(self, kernel=self.kernel.unflatten(1, (-1, factor)).mean(dim=2), mask=mask)

    def to_samples(self, frames: Tensor, length: int) -> Tensor:
        """Upsamples projected features (B, context + F + context, C) to (B, length, C), or (B, 1, C) if always the same."""
        if self.kernel is None and frames.shape[1] == 1:
            return frames
        if (frames.shape[1] - 2 * self.context) * self.hop_length != length:
            raise ValueError(
                f"`cond` must have {length / self.hop_length:g} frames of {self.hop_length} samples for {length} samples, "
                f"got {frames.shape[1]}: cut or pad the audio to whole frames."
            )
        if self.kernel is None:
            return frames
        return interpolate_inner(frames, self.kernel) if self.context else interpolate(frames, self.kernel)

    def frame_to_samples(self, frames: Tensor, frame: int) -> Tensor:
        """Returns the samples (..., hop_length, C) of one frame of projected features (..., F, C)."""
        if frame >= frames.shape[-2]:
            raise ValueError(f"`cond` ends after {frames.shape[-2]} frames of {self.hop_length} samples: draw no more.")
        if self.kernel is None:
            return frames[..., frame : frame + 1, :]
        neighbors = torch.arange(frame - 1, frame + 2, device=frames.device).clamp(0, frames.shape[-2] - 1)
        return self.kernel.to(frames).T @ frames[..., neighbors, :]


class Upsampler(nn.Module):
    """Mel (B, n_mels, F) -> features (B, channels, F) at frame rate, and the kernel that takes frames to samples.

    One upsampler is shared by all conditioners of a model. It mixes each frame with both neighbors; then every conditioner
    projects the features at frame rate and interpolates the result to the sample rate with `kernel`. Each of the two steps
    looks a frame ahead at most. Never a bare transposed convolution, whose overlap rings as a tone.

    Args:
        n_mels: Bands of the mel; for none, the features are learnt constants.
        channels: Features.
        hop_length: Samples per frame.
        frame_center: Where a frame's center lies after its first sample, in samples (see `MelSpectrogram`).
        mode: "linear" keeps the kernel fixed at linear interpolation; "smoothing" learns it, starting from there
            (nearest-neighbor repetition followed by a smoothing filter that spans three frames).
    """

    def __init__(self, n_mels: int, channels: int, hop_length: int, frame_center: float, mode: str = "linear") -> None:
        super().__init__()
        if mode not in ("linear", "smoothing"):
            raise ValueError(f"`mode` must be 'linear' or 'smoothing', got {mode!r}.")
        self.hop_length = hop_length
        self.channels = channels
        # Log-mels lie between -11.5 and about 2; brought to unit scale so that the first layer starts well.
        self.mean = nn.Buffer(torch.tensor(-5.0), persistent=False)
        self.scale = nn.Buffer(torch.tensor(2.5), persistent=False)
        self.mix = nn.Conv1d(n_mels or 1, channels, kernel_size=3)
        if not n_mels:  # its bias is what is learnt then
            self.mix.weight = nn.Parameter(self.mix.weight.detach()[:, :0], requires_grad=False)
        self.refine = nn.Conv1d(channels, channels, kernel_size=1)
        kernel = interpolation_weights(hop_length, frame_center).to(torch.get_default_dtype())
        self.kernel = nn.Parameter(kernel) if mode == "smoothing" else nn.Buffer(kernel, persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """Returns features (B, channels, F) of a log-mel (B, n_mels, F)."""
        if mel.shape[1]:
            x = (mel - self.mean) / self.scale
            x = torch.cat([x[..., :1], x, x[..., -1:]], dim=-1)  # edges held, as in `interpolate`
            mixed = self.mix(x.to(self.mix.weight.dtype))
        else:
            assert self.mix.bias is not None
            mixed = self.mix.bias.unsqueeze(-1).expand(mel.shape[0], -1, mel.shape[-1])
        return torch.nn.functional.leaky_relu(self.refine(torch.nn.functional.leaky_relu(mixed, 0.2)), 0.2)
