"""The teacher's steps on a CPU, far faster than a step at a time through torch: exact, batched, and no compiler needed.

A sample costs a WaveNet's weights once, and reading them is what takes the time. Of a layer's taps only the current one has to
wait for the sample before; the older ones are known some steps ahead, `dilation` of them, and are multiplied for a block of
steps at once (`kernels.take_delayed`), so that a step reads little more than half of the weights. The state is what the
full pass pads: zeros at first, and the inputs of each layer as far back as it looks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wavflow.distributions import Gaussian
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Flow
from wavflow.flows.elementwise import Affine, MixtureCDF
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet
from wavflow.synthesis.packing import pack, projection, shared_words, whole

PIECE = 1024  # samples to a call, at least: between calls the past of the layers moves back to the front
SMALLEST_LOG_TAIL = -700.0  # beyond it a probability is no float64


class StepEngine:
    """Draws u from noise z for a teacher, as `flow.sample` does, to 1e-5 in float32: the same noise gives the same sample.

    The weights are copied: make another engine after they have changed. The first draw compiles for some seconds, the next
    process finds the result on disk.

    Args:
        flow: One for which `supports` is true.
        dtype: Of the layers' matrices: float32, or bfloat16 for half the reading. Everything else is float32: inputs, sums,
            gates, features and head.

    Raises:
        ValueError: For another flow or dtype.
    """

    def __init__(self, flow: Flow, dtype: torch.dtype = torch.float32) -> None:
        parts = _parts(flow)
        if parts is None:
            raise ValueError(
                "`flow` must be one causal WaveNet over audio with an affine or a mixture density, as "
                f"wavflow.models.teacher makes, got {_describe(flow)}: draw with its own `sample`."
            )
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"`dtype` must be torch.float32 or torch.bfloat16, got {dtype}.")
        self._tau, self._conditioner = parts
        self._net = pack(self._conditioner, shared_words if dtype == torch.bfloat16 else None)
        self._projection = projection(self._conditioner)

    @staticmethod
    def supports(flow: Flow) -> bool:
        """Whether the engine can draw from a flow."""
        return _parts(flow) is not None

    @torch.no_grad()
    def sample(self, z: Tensor, cond: Conditioning | None = None) -> Tensor:
        """Returns u (B, 1, T) of noise z (B, 1, T), temperature included, with z's dtype and device.

        Args:
            z: Noise.
            cond: Features of at least T samples; None for a WaveNet without.

        Raises:
            ValueError: Where the shapes do not fit.
        """
        from wavflow.synthesis import kernels  # Numba takes a second to import

        cond = self._check(z, cond)
        weights = torch.tensor([[0.0], [1.0], [0.0]]) if cond.kernel is None else cond.kernel
        kernel = weights.detach().float().cpu().contiguous().numpy()
        net, density, hop = self._net, self._density(), cond.hop_length
        batch, length, piece = len(z), z.shape[-1], whole(PIECE, hop)
        # Each layer's inputs: as many as its taps look back, then those of a piece.
        spans = [(net.kernel_size - 1) * int(dilation) for dilation in net.dilations]
        first_rows = np.cumsum([0, *((span + piece) * batch for span in spans)])
        past = np.zeros((first_rows[-1], net.channels), np.float32)
        u, x = np.zeros((batch, length), np.float32), np.zeros(batch, np.float32)
        for start in range(0, length, piece):
            n = min(piece, length - start)
            frames = self._features(cond, start // hop, -(-n // hop))
            noise = self._noise(z[:, 0, start : start + n])
            part = np.empty((batch, n), np.float32)
            kernels.run(net, density, past, first_rows, (frames, kernel, start), noise, x, part)
            u[:, start : start + n] = part
            for first, span in zip(first_rows, spans, strict=False):
                past[first : first + span * batch] = past[first + n * batch : first + (n + span) * batch].copy()
        return torch.from_numpy(u).unsqueeze(1).to(z)

    def _density(self) -> tuple[int, float, bool]:
        """What `kernels.run` is told of the bijection."""
        tau = self._tau
        return (0, tau.bound, True) if isinstance(tau, Affine) else (tau.n_components, tau.bound, tau.component is Gaussian)

    def _features(self, cond: Conditioning, first: int, n: int) -> np.ndarray:
        """Projects frames first - 1 ... first + n, the edge frames held: (B, n + 2, layers, 2 C), padded."""
        neighbors = torch.arange(first - 1, first + n + 1).clamp(0, cond.frames.shape[-1] - 1)
        frames = cond.frames[..., neighbors].transpose(1, 2).float().cpu()
        return (frames @ self._projection).unflatten(-1, (len(self._net.dilations), -1)).numpy()

    def _noise(self, z: Tensor) -> np.ndarray:
        """Returns noise (B, n) as (B, n, 1), or for a mixture as (B, n, 3), what `kernels.quantile` takes of it."""
        z, tau = z.double().cpu(), self._tau
        if isinstance(tau, Affine):
            return z.unsqueeze(-1).contiguous().numpy()
        log_cdf, log_sf = tau.base.log_cdf(z), tau.base.log_sf(z)
        log_tail = torch.minimum(log_cdf, log_sf)
        if not (log_tail > SMALLEST_LOG_TAIL).all():
            raise ValueError(f"`z` must be noise of the flow's base density, got values up to {z.abs().max():g}: see `noise`.")
        standard = tau.component().quantile(log_cdf, log_sf)
        return torch.stack([standard, log_tail, torch.where(log_cdf < log_sf, 1.0, -1.0).to(z)], dim=-1).numpy()

    def _check(self, z: Tensor, cond: Conditioning | Tensor | None) -> Conditioning:
        """Returns the conditioning; where the WaveNet takes none, one without channels."""
        if z.dim() != 3 or z.shape[1] != 1:
            raise ValueError(f"`z` must be noise (B, 1, T), got {tuple(z.shape)}: add a dimension for the channel.")
        net = self._conditioner
        if net.features is None:
            return Conditioning(z.new_zeros(len(z), 0, whole(z.shape[-1], PIECE) // PIECE), torch.zeros(3, PIECE))
        if cond is None:
            raise ValueError(f"`cond` is needed: the WaveNet was built with {net.cond_channels} conditioning channels.")
        cond = cond if isinstance(cond, Conditioning) else Conditioning(cond)
        if cond.frames.shape[:2] != (len(z), net.cond_channels):
            raise ValueError(
                f"`cond` must have frames ({len(z)}, {net.cond_channels}, F) for `z` {tuple(z.shape)}, "
                f"got {tuple(cond.frames.shape)}: one item for each."
            )
        if cond.frames.shape[-1] * cond.hop_length < z.shape[-1]:
            raise ValueError(
                f"`cond` ends after {cond.frames.shape[-1]} frames of {cond.hop_length} samples, `z` has {z.shape[-1]} "
                "samples: draw no more."
            )
        return cond


def _parts(flow: Flow) -> tuple[Affine | MixtureCDF, WaveNet] | None:
    """Returns the density and the net of a flow that the engine can draw from; None for another."""
    transform = flow.transform
    if type(transform) is Autoregressive:
        tau, net = transform.tau, transform.conditioner
        if (type(tau) is Affine or type(tau) is MixtureCDF) and type(net) is WaveNet and net.causal:
            return (tau, net) if transform.group == net.input.in_features == 1 else None
    return None


def _describe(flow: Flow) -> str:
    """Names the parts that matter, from the outside in."""
    parts = [flow.transform, getattr(flow.transform, "tau", None), getattr(flow.transform, "conditioner", None)]
    return " of ".join(type(part).__name__ for part in parts if part is not None)
