"""A student's draw on a CPU, far faster than through torch, and the same whether the whole mel is there or it comes in pieces.

    mel frames -> features -> projected for all layers       at frame rate
    noise -> pulses under it                                 see `wavflow.synthesis.unwhitening`, as below
    ... -> flow 1 -> ... -> flow n -> whitened audio         blocks of samples through all layers, so that they stay in cache
    whitened audio -> comb -> envelope -> audio              two recursions

What layers and filters look back at is kept, so the memory that a draw takes does not grow with its length. Each number is
computed from the same terms in the same order wherever a piece begins: streams equal whole draws to the last bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavflow.flows.elementwise import Inverted
from wavflow.flows.triangular import TriangularAffine
from wavflow.kernels import multiplies_bfloat16
from wavflow.nn.wavenet import WaveNet
from wavflow.synthesis.noise import Noise
from wavflow.synthesis.packing import (
    TILE,
    PackedWaveNet,
    pack,
    padded,
    paired_words,
    projection,
    tile_words,
    tiles,
    to_numpy,
    whole,
)
from wavflow.synthesis.parallel_stream import ParallelStream
from wavflow.synthesis.student import inverse_flows


class ParallelEngine:
    """Draws audio from mels and noise for a student, as `Vocoder.sample` does, to 1e-5 in float32.

    The weights are copied: make another engine after they have changed. The first draw compiles for half a minute, the next
    process finds the result on disk. Every thread that torch may use takes part in draws of several frames.

    Args:
        vocoder: One for which `supports` is true.
        dtype: Of the layers' inputs and matrices: float32, or bfloat16, twice as fast on processors that multiply it. Sums,
            residuals, gates, features, head and density are float32 either way.

    Attributes:
        dtype: As given.

    Raises:
        ValueError: For another model or dtype.
    """

    def __init__(self, vocoder: Any, dtype: torch.dtype = torch.float32) -> None:
        from wavflow.kernels import products  # Numba takes a second to import
        from wavflow.synthesis import unwhitening

        if not self.supports(vocoder):
            raise ValueError(
                "`vocoder` must be a student on a CPU in float32, inverse autoregressive flows with WaveNets of one shape, as "
                "wavflow.models.student makes: draw with `fast=False`."
            )
        if dtype not in dtypes():
            raise ValueError(
                f"`dtype` must be one that this processor multiplies, {' or '.join(map(str, dtypes()))}, got {dtype}."
            )
        self.dtype = dtype
        self.vocoder = vocoder
        flows: list[Any] = inverse_flows(vocoder)
        self.flows, self.group, self.bound = len(flows), flows[0].group, flows[0].tau.bijection.diagonal.bound
        words = None
        if dtype == torch.bfloat16:
            words = tile_words if products.multiplies_tiles() else paired_words
        packed = [pack(flow.conditioner, words) for flow in flows]
        self.net = PackedWaveNet._make(
            np.concatenate(parts) if isinstance(parts[0], np.ndarray) else parts[0] for parts in zip(*packed, strict=True)
        )
        self.kernel = np.ascontiguousarray(to_numpy(vocoder.upsampler.kernel).reshape(3, -1, self.group).mean(axis=2))
        self._pack_frames([flow.conditioner for flow in flows])
        self.pool = ThreadPoolExecutor(torch.get_num_threads())
        self.filters = None if vocoder.whitening is None else unwhitening.filters(vocoder.whitening)

    @staticmethod
    def supports(vocoder: Any) -> bool:
        """Whether the engine can draw for a model."""
        try:
            flows = inverse_flows(vocoder)
        except ValueError:
            return False
        taus: list[Any] = [flow.tau for flow in flows]
        if not all(type(tau) is Inverted and type(tau.bijection) is TriangularAffine for tau in taus):
            return False
        nets = {(flow.group, str(flow.conditioner), *flow.conditioner.dilations) for flow in flows}
        return len(nets) == len({tau.bijection.diagonal.bound for tau in taus}) == 1

    def stream(self, batch: int = 1, speaker: Tensor | None = None) -> ParallelStream:
        """Returns an empty stream for a batch of items."""
        return ParallelStream(self, batch, speaker)

    @torch.no_grad()
    def sample_and_log_prob(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns audio (B, T) of a mel (B, n_mels, F) and noise (B, T), temperature included, and its log-density (B, T)."""
        return self.stream(len(mel), speaker).push(mel, Noise(noise), last=True)

    def pieces(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> Iterator[tuple[Tensor, bool]]:
        """Yields the audio alone, see `ParallelStream.pieces`."""
        return self.stream(len(mel), speaker).pieces(mel, Noise(noise), last=True)

    def _pack_frames(self, nets: list[WaveNet]) -> None:
        """Packs what is done at frame rate: the upsampler, and the projections to all layers side by side."""
        up = self.vocoder.upsampler
        mix = up.mix.weight.detach().permute(2, 1, 0).flatten(0, 1)  # of three frames, one behind the other
        self.mix = _matrix(mix), _row(up.mix.bias), float(up.mean), float(up.scale)
        self.refine = _matrix(up.refine.weight.detach()[..., 0].T), _row(up.refine.bias)
        self.projection = _matrix(torch.cat([projection(net) for net in nets], dim=1))
        self.embedding = None if self.vocoder.speakers is None else to_numpy(self.vocoder.speakers.weight)


def dtypes() -> list[torch.dtype]:
    """Returns what this processor can multiply."""
    return [torch.float32, torch.bfloat16] if multiplies_bfloat16() else [torch.float32]


def fastest_dtype(vocoder: Any) -> torch.dtype:
    """Returns the dtype in which a model draws a few frames soonest on this machine, measured now."""
    if len(dtypes()) == 1:
        return torch.float32
    mel, noise = (torch.zeros(1, *shape, dtype=torch.float32) for shape in [(vocoder.mel.n_mels, 8), (8 * vocoder.hop_length,)])
    seconds: dict[torch.dtype, float] = {}
    for dtype in dtypes():
        engine = vocoder.engine(dtype)
        for _ in range(3):  # the first one compiles
            started = time.perf_counter()
            engine.sample_and_log_prob(mel, noise)
            seconds[dtype] = min(seconds.get(dtype, math.inf), time.perf_counter() - started)
    return min(seconds, key=seconds.__getitem__)


def _matrix(weight: Tensor) -> np.ndarray:
    """Packs a matrix (inputs, outputs)."""
    return tiles(padded(weight[None], {-1: whole(weight.shape[1], TILE), -2: whole(weight.shape[0], 2)}))


def _row(bias: Tensor) -> np.ndarray:
    return padded(bias, {-1: whole(len(bias), TILE)}).numpy()
