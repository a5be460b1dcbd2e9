"""State of one streaming synthesis by the compiled engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wavflow.synthesis.packing import ROWS, TILE, to_numpy, whole

if TYPE_CHECKING:
    from wavflow.synthesis.parallel import ParallelEngine

PIECE = 32  # frames drawn at once, at most
ROOM = 256  # time steps kept beyond the past of a layer before that moves back to the front


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
        self.first_rows, self.past = first_rows[:-1], np.zeros((batch, (first_rows[-1] + TILE) * words), net.gates.dtype)
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
        frames = np.ascontiguousarray(to_numpy(mel.transpose(1, 2)))
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
        u = np.array(to_numpy(z), np.float32, order="C")  # a copy: it becomes the audio
        log_slope, log_prob = np.zeros_like(u), to_numpy(engine.vocoder.flow.base_log_prob(z.unsqueeze(1)))
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


def with_spare(rows: np.ndarray) -> np.ndarray:
    """Returns rows with eight more behind them: the kernels take eight rows at a time, and windows of three."""
    return np.concatenate([rows, np.zeros((8, rows.shape[1]), np.float32)])


def _multiply(x: np.ndarray, weights: np.ndarray, bias: np.ndarray, rows: int) -> np.ndarray:
    """Returns rows of `x @ W + bias`, and up to eight spare ones; a row of x may reach into the next ones."""
    from wavflow.synthesis import blocks

    y = np.tile(bias, (whole(rows, 8) + 1, 1))
    blocks.multiply(y, y.shape[1], x, x.shape[1], rows, weights, 0, y.shape[1] // TILE)
    return y


def _leaky_relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.float32(0.2) * x)
