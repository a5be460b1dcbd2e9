"""A student's draw on a CPU, far faster than through torch, and the same whether the whole mel is there or it comes in pieces.

    mel frames -> features -> projected for all layers       at frame rate
    noise -> pulses under it                                 see `wavflow.synthesis.unwhitening`, as below
    ... -> flow 1 -> ... -> flow n -> whitened audio         blocks of samples through all layers, so that they stay in cache
    whitened audio -> comb -> envelope -> audio              two recursions

What layers and filters look back at is kept, so the memory that a draw takes does not grow with its length. Each number is
computed from the same terms in the same order wherever a piece begins: streams equal whole draws to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Inverse
from wavflow.flows.elementwise import Inverted
from wavflow.flows.triangular import TriangularAffine
from wavflow.nn.wavenet import WaveNet
from wavflow.synthesis.packing import ROWS, TILE, PackedWaveNet, by_vectors, pack, padded, paired_words, tiles, whole

PIECE = 32  # frames drawn at once, at most
ROOM = 1024  # time steps kept beyond the past of a layer before that moves back to the front


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
        from wavflow.synthesis import unwhitening  # Numba takes a second to import

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
        steps = [step.transform for step in reversed(vocoder.flow.transform.transforms)]  # from noise to audio
        self.flows, self.group, self.bound = len(steps), steps[0].group, steps[0].tau.bijection.diagonal.bound
        packed = [pack(step.conditioner, dtype, paired_words) for step in steps]
        self.net = PackedWaveNet._make(
            np.concatenate(parts) if isinstance(parts[0], np.ndarray) else parts[0] for parts in zip(*packed, strict=True)
        )
        self.kernel = np.ascontiguousarray(_numpy(vocoder.upsampler.kernel).reshape(3, -1, self.group).mean(axis=2))
        self._pack_frames(steps)
        self.pool = ThreadPoolExecutor(torch.get_num_threads())
        self.filters = None if vocoder.whitening is None else unwhitening.filters(vocoder.whitening)

    @staticmethod
    def supports(vocoder: Any) -> bool:
        """Whether the engine can draw for a model."""
        chain = vocoder.flow.transform
        steps: list[Any] = list(chain.transforms) if isinstance(chain, Chain) else []
        if not steps or not all(isinstance(step, Inverse) and _is_affine(step.transform) for step in steps):
            return False
        flows = [step.transform for step in steps]
        nets = {(flow.group, str(flow.conditioner), *flow.conditioner.dilations) for flow in flows}
        return len(nets) == len({flow.tau.bijection.diagonal.bound for flow in flows}) == 1

    def stream(self, batch: int = 1, speaker: Tensor | None = None) -> ParallelStream:
        """Returns an empty stream for so many items at once."""
        return ParallelStream(self, batch, speaker)

    @torch.no_grad()
    def sample_and_log_prob(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns audio (B, T) of a mel (B, n_mels, F) and noise (B, T), temperature included, and its log-density (B, T)."""
        return self.stream(len(mel), speaker).push(mel, Noise(noise), last=True)

    def sample(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> Tensor:
        """Returns the audio alone, see `sample_and_log_prob`."""
        return self.sample_and_log_prob(mel, noise, speaker)[0]

    def _pack_frames(self, steps: list[Autoregressive]) -> None:
        """Packs what is done at frame rate: the upsampler, and the projections to all layers side by side."""
        up, channels = self.vocoder.upsampler, self.net.channels
        mix = up.mix.weight.detach().permute(2, 1, 0).flatten(0, 1)  # of three frames, one behind the other
        self.mix = _matrix(mix), _row(up.mix.bias), float(up.mean), float(up.scale)
        self.refine = _matrix(up.refine.weight.detach()[..., 0].T), _row(up.refine.bias)
        columns = []
        for step in steps:
            net = step.conditioner
            weight = torch.zeros(up.channels, len(net.dilations), 2, channels, dtype=torch.float32)
            if net.features is not None:
                weight[..., : net.channels] = net.features.weight.detach().T.unflatten(1, (len(net.dilations), 2, -1))
            columns.append(by_vectors(weight).flatten(1))
        self.projection = _matrix(torch.cat(columns, dim=1))
        self.embedding = None if self.vocoder.speakers is None else _numpy(self.vocoder.speakers.weight)


class ParallelStream:
    """State of one streaming synthesis by the engine.

    Frames wait until the two after them are known; at either end the outermost frame is held, as for a whole mel.

    Args:
        engine: The engine.
        batch: Items that are drawn at once.
        speaker: Ids (B,), for a model with speakers.
    """

    def __init__(self, engine: ParallelEngine, batch: int, speaker: Tensor | None = None) -> None:
        net, vocoder = engine.net, engine.vocoder
        vocoder.check_speaker(speaker)
        self.engine, self.batch = engine, batch
        self.embedding = None if speaker is None or engine.embedding is None else engine.embedding[speaker.numpy()]
        words = net.gates.shape[1] * net.gates.shape[2] // TILE
        spans = (net.kernel_size - 1) * net.dilations
        self.room = max(ROOM, ROWS)
        first_rows = np.cumsum([0, *(spans + self.room)])
        self.first_rows, self.past = first_rows[:-1], np.zeros((batch, (first_rows[-1] + 3) * words), net.gates.dtype)
        self.filled, self.last = (
            np.zeros((batch, engine.flows), np.intp),
            np.zeros((batch, engine.flows, engine.group), np.float32),
        )
        filters = engine.filters
        self.comb = np.zeros((batch, filters.longest_lag if filters else 0))
        self.audio = np.zeros((batch, filters.to_autocorrelation.shape[1] - 1 if filters else 0))
        self.phase = np.zeros(batch)  # of the harmonic source
        self.mels = np.zeros((batch, 0, vocoder.mel.n_mels), np.float32)
        self.features = np.zeros((batch, 0, whole(vocoder.upsampler.channels, TILE)), np.float32)
        self.started = self.ended = False

    @torch.no_grad()
    def push(self, mel: Tensor, noise: Callable[[int], Tensor], last: bool = False) -> tuple[Tensor, Tensor]:
        """Takes further frames (B, n_mels, F) and draws what can be drawn.

        Args:
            mel: Frames; may be none at all.
            noise: Called with a number of samples; returns so much noise (B, n), temperature included.
            last: Whether no more frames will come.

        Returns:
            Audio (B, n), the next n samples, and its log-density (B, n) in nats per sample.

        Raises:
            ValueError: After the last frame, or with another number of items.
        """
        if self.ended:
            raise ValueError("`mel`: this stream has ended: start another.")
        if len(mel) != self.batch:
            raise ValueError(f"`mel` must have the stream's {self.batch} items, got {len(mel)}.")
        self.ended = last
        frames = np.ascontiguousarray(_numpy(mel.transpose(1, 2)))
        pieces = [frames[:, i : i + PIECE] for i in range(0, frames.shape[1], PIECE)] or [frames]
        drawn = [self._push(piece, noise, last and i == len(pieces) - 1) for i, piece in enumerate(pieces)]
        audio, log_prob = (torch.from_numpy(np.concatenate(parts, axis=1)) for parts in zip(*drawn, strict=True))
        return audio, log_prob

    def _push(self, mels: np.ndarray, noise: Callable[[int], Tensor], last: bool) -> tuple[np.ndarray, np.ndarray]:
        """`push` for (B, F, n_mels) of at most a piece.

        mels      f-1  f  f+1 ...      held from one before the frame f that is drawn next, as features are;
        features  f-1  f  f+1 ...      each is made of three mels, each sample of three features
        """
        if not self.started and mels.shape[1]:
            self.started, mels = True, np.concatenate([mels[:, :1], mels], axis=1)
        mels = np.concatenate([self.mels, mels], axis=1)
        if last:
            mels = np.concatenate([mels, mels[:, -1:]], axis=1)
        first = max(self.features.shape[1] - 1, 0)
        features = self.features
        if mels.shape[1] - first > 2:
            new = self._upsample(mels[:, first:])
            features = np.concatenate([features, new], axis=1) if first else np.concatenate([new[:, :1], new], axis=1)
        if last:
            features = np.concatenate([features, features[:, -1:]], axis=1)
        ready = max(features.shape[1] - 2, 0)
        self.mels, self.features = mels[:, ready:], features[:, ready:]
        return self._draw(mels[:, : ready + 2], features[:, : ready + 2], ready, noise)

    def _upsample(self, mels: np.ndarray) -> np.ndarray:
        """Makes features (B, F, channels) of mels (B, F + 2, n_mels)."""
        engine, frames = self.engine, mels.shape[1] - 2
        mix, mix_bias, mean, scale = engine.mix
        refine, refine_bias = engine.refine
        features = np.empty((self.batch, frames, len(mix_bias)), np.float32)
        for item in range(self.batch):
            mixed = _multiply(with_spare((mels[item] - mean) / scale), mix, mix_bias, frames)
            refined = _multiply(_leaky_relu(mixed), refine, refine_bias, frames)
            features[item] = _leaky_relu(refined)[:frames]
            if self.embedding is not None:
                features[item, :, : self.embedding.shape[1]] += self.embedding[item]
        return features

    def _draw(
        self, mels: np.ndarray, features: np.ndarray, frames: int, noise: Callable[[int], Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws so many frames; mels and features go from one before to one after them."""
        from wavflow.synthesis import unwhitening

        engine, samples = self.engine, frames * self.engine.vocoder.hop_length
        if not frames:
            return np.zeros((self.batch, 0), np.float32), np.zeros((self.batch, 0), np.float32)
        z, source = noise(samples), engine.vocoder.source
        u = np.array(_numpy(z), np.float32, order="C")  # a copy: it becomes the audio
        log_slope, log_prob = np.zeros_like(u), _numpy(engine.vocoder.flow.base_log_prob(z.unsqueeze(1)))
        mels = np.ascontiguousarray(mels)
        pitch = [unwhitening.pitches(engine.filters, item) for item in mels] if engine.filters else []
        for b in range(self.batch if source else 0):
            self.phase[b] = unwhitening.add_pulses(
                engine.filters, pitch[b], source.share, source.width, self.phase[b], u[b], log_slope[b]
            )
        layers, none = len(engine.net.dilations), np.zeros(engine.projection.shape[0] * TILE, np.float32)
        projected = [
            _multiply(with_spare(item), engine.projection, none, frames + 2).reshape(-1, layers, 2 * engine.net.channels)
            for item in features
        ]
        self._draw_flows(projected, u, log_slope)
        if engine.filters is None:
            return u, log_prob - log_slope
        audio, log_gain = np.empty_like(u), np.empty_like(u)
        for b in range(self.batch):
            memory = self.comb[b], self.audio[b]
            unwhitening.unwhiten(engine.filters, mels[b], pitch[b], u[b], *memory, audio[b], log_gain[b])
        return audio, log_prob - (log_slope + log_gain)

    def _draw_flows(self, projected: list[np.ndarray], u: np.ndarray, log_scale: np.ndarray) -> None:
        """Takes noise u (B, n) through all flows, in place.

        Threads share the work along diagonals, a frame or more at a time: a flow can take a piece when the flow before it has
        taken it, and it has itself taken the piece before.

            flow 1    0 1 2 3 4 5
            flow 2      0 1 2 3 4 ...
            flow 3        0 1 2 3 ...
        """
        from wavflow.synthesis import blocks

        engine, hop = self.engine, self.engine.kernel.shape[1]
        z, log_scale = (x.reshape(self.batch, -1, engine.group) for x in (u, log_scale))
        threads, frames = torch.get_num_threads(), z.shape[1] // hop
        stride = frames if threads == 1 else max(1, frames // (4 * engine.flows))

        def draw(item: int, first: int, last: int, frame: int) -> None:
            here = slice(frame * hop, (frame + stride) * hop)
            blocks.draw(
                engine.net,
                (first, last, engine.flows),
                engine.bound,
                self.past[item],
                self.first_rows,
                self.room,
                self.filled[item],
                self.last[item],
                (projected[item][frame:], engine.kernel),
                z[item, here],
                log_scale[item, here],
            )

        if threads == 1 or frames == self.batch == 1:
            for item in range(self.batch):
                draw(item, 0, engine.flows, 0)
            return
        pieces = -(-frames // stride)
        for diagonal in range(pieces + engine.flows - 1):
            flows = range(max(0, diagonal - pieces + 1), min(engine.flows, diagonal + 1))
            tasks = [(item, flow, flow + 1, (diagonal - flow) * stride) for flow in flows for item in range(self.batch)]
            list(engine.pool.map(lambda task: draw(*task), tasks))


class Noise:
    """Gives noise (B, T) out from its start on.

    Raises:
        ValueError: When it ends before the draw does.
    """

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.at = noise, 0

    def __call__(self, samples: int) -> Tensor:
        """Returns the next samples (B, n)."""
        self.at += samples
        if self.at > self.noise.shape[-1]:
            raise ValueError(f"`noise` ends after {self.noise.shape[-1]} samples, {self.at} are needed: one for each sample.")
        return self.noise[:, self.at - samples : self.at]


def _is_affine(flow: Any) -> bool:
    if type(flow) is not Autoregressive or type(flow.tau) is not Inverted or type(flow.tau.bijection) is not TriangularAffine:
        return False
    return type(flow.conditioner) is WaveNet and flow.conditioner.causal


def dtypes() -> list[torch.dtype]:
    """Returns what this processor can multiply."""
    from wavflow.kernels import vectors

    return [torch.float32, torch.bfloat16] if vectors.multiplies_bfloat16() else [torch.float32]


def fastest_dtype(vocoder: Any) -> torch.dtype:
    """Returns the dtype in which a model draws a few frames soonest on this machine, measured now."""
    if len(dtypes()) == 1:
        return torch.float32
    mel, noise = (torch.zeros(1, *shape, dtype=torch.float32) for shape in [(vocoder.mel.n_mels, 8), (8 * vocoder.hop_length,)])
    seconds = {}
    for dtype in dtypes():
        engine = vocoder.engine(dtype)
        for _ in range(3):  # the first one compiles
            started = time.perf_counter()
            engine.sample_and_log_prob(mel, noise)
            seconds[dtype] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)


def with_spare(rows: np.ndarray) -> np.ndarray:
    """Returns rows with four more behind them: the kernels take four rows at a time, and windows of three."""
    return np.concatenate([rows, np.zeros((4, rows.shape[1]), np.float32)])


def _multiply(x: np.ndarray, weights: np.ndarray, bias: np.ndarray, rows: int) -> np.ndarray:
    """Returns rows of `x @ W + bias`, and up to four spare ones; a row of x may reach into the next ones."""
    from wavflow.synthesis import blocks

    y = np.tile(bias, (whole(rows, 4) + 1, 1))
    blocks.multiply(y, y.shape[1], x, x.shape[1], rows, weights, 0, y.shape[1] // TILE)
    return y


def _leaky_relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.float32(0.2) * x)


def _matrix(weight: Tensor) -> np.ndarray:
    """Packs a matrix (inputs, outputs)."""
    return tiles(padded(weight[None], {-1: whole(weight.shape[1], TILE), -2: whole(weight.shape[0], 2)}), torch.float32)


def _row(bias: Tensor) -> np.ndarray:
    return padded(bias, {-1: whole(len(bias), TILE)}).numpy()


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
