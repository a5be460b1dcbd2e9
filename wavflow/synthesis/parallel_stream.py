"""State of one streaming synthesis by the compiled engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavflow.synthesis.packing import ROWS, TILE, to_numpy, whole

if TYPE_CHECKING:
    from wavflow.synthesis.parallel import ParallelEngine

PIECE = 256  # frames drawn at once, at most
STRIDES = 16  # parts of a piece, where threads share it; a thread takes one part through one stage at a time
THREADED = 16  # frames from which on threads share a piece; of fewer, a part is hardly worth a thread's waking
ROOM = 256  # time steps kept beyond the past of a layer before that moves back to the front


class Piece(NamedTuple):
    """Arrays of a piece of F frames, which the stages of a draw share."""

    mels: np.ndarray  # (B, F + 2, n_mels), from the frame before the first one to that after the last
    projected: list[np.ndarray]  # of each item, features of these frames for all layers
    u: np.ndarray  # (B, F, hop_length) noise; then what the stages make of it
    log_scale: np.ndarray  # (B, F, hop_length) log |du/dz|
    pitch: np.ndarray  # (B, F, blocks of a frame, 2), see `unwhitening.pitches`
    audio: np.ndarray  # (B, F, hop_length)
    log_gain: np.ndarray  # (B, F, hop_length) log |daudio/du|


Stage = Callable[[Piece, int, slice], None]  # of an item, on some frames


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
        engine, hop = self.engine, self.engine.vocoder.hop_length
        if not frames:
            return np.zeros((self.batch, 0), np.float32), np.zeros((self.batch, 0), np.float32)
        z, layers = noise(frames * hop), len(engine.net.dilations)
        log_prob = engine.vocoder.flow.base_log_prob(z.unsqueeze(1))
        no_bias = np.zeros(engine.projection.shape[0] * TILE, np.float32)
        projected = [_multiply(with_spare(item), engine.projection, no_bias, frames + 2) for item in features]
        u = np.array(to_numpy(z), np.float32, order="C").reshape(self.batch, frames, hop)  # a copy: stages change it
        piece = Piece(
            np.ascontiguousarray(mels),
            [item.reshape(-1, layers, 2 * engine.net.channels) for item in projected],
            u,
            np.zeros_like(u),
            np.empty((self.batch, frames, engine.filters.kernel.shape[1], 2) if engine.filters else 0),
            np.empty_like(u) if engine.filters else u,
            np.zeros_like(u),
        )
        stages: list[Stage] = [partial(self._apply_flow, flow) for flow in range(engine.flows)]
        self._run([self._add_pulses, *stages, self._unwhiten] if engine.filters else stages, piece, frames)
        audio, log_scale = (x.reshape(self.batch, -1) for x in (piece.audio, piece.log_scale + piece.log_gain))
        return audio, to_numpy(log_prob) - log_scale

    def _run(self, stages: list[Stage], piece: Piece, frames: int) -> None:
        """Takes a piece through all stages: each takes the frames in order, after the stage before it.

        Threads share the work. Each takes the next part of any stage that is ready, so that none waits while there is one:

            stage 1    0 1 2 3 4 5
            stage 2      0 1 2 3 4 ...
            stage 3        0 1 2 3 ...
        """
        if (threads := torch.get_num_threads()) == 1 or frames < THREADED:
            for stage in stages:
                for item in range(self.batch):
                    stage(piece, item, slice(0, frames))
            return
        stride = -(-frames // STRIDES)
        parts = [slice(start, min(start + stride, frames)) for start in range(0, frames, stride)]
        order = [(n, item) for n in reversed(range(len(stages))) for item in range(self.batch)]  # the last stage first
        done = dict.fromkeys(order, 0) | {(-1, item): len(parts) for item in range(self.batch)}
        busy: set[tuple[int, int]] = set()
        changed, failed = threading.Condition(), threading.Event()

        def work() -> None:
            with changed:
                while not failed.is_set() and any(done[task] < len(parts) for task in order):
                    task = next((t for t in order if t not in busy and done[t] < done[t[0] - 1, t[1]]), None)
                    if task is None:
                        changed.wait()
                        continue
                    busy.add(task)
                    changed.release()
                    try:
                        stages[task[0]](piece, task[1], parts[done[task]])
                    except BaseException:
                        failed.set()
                        raise
                    finally:
                        changed.acquire()
                        busy.remove(task)
                        done[task] += 1
                        changed.notify_all()

        others = [self.engine.pool.submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()

    def _add_pulses(self, piece: Piece, item: int, here: slice) -> None:
        """Reads the pitch of some frames, and adds pulses to their noise."""
        from wavflow.synthesis import unwhitening

        filters, source = self.engine.filters, self.engine.vocoder.source
        pitch = unwhitening.pitches(filters, piece.mels[item, here.start : here.stop + 2])
        piece.pitch[item, here] = pitch.reshape(piece.pitch[item, here].shape)
        if source is not None:
            noise, log_sigma = (x[item, here].reshape(-1) for x in (piece.u, piece.log_scale))
            phase = self.phase[item]
            self.phase[item] = unwhitening.add_pulses(filters, pitch, source.share, source.width, phase, noise, log_sigma)

    def _apply_flow(self, flow: int, piece: Piece, item: int, here: slice) -> None:
        """Takes some frames of noise through a flow, in place."""
        from wavflow.synthesis import blocks

        engine = self.engine
        blocks.draw(
            engine.net,
            (flow, flow + 1, engine.flows),
            engine.bound,
            self.past[item],
            self.first_rows,
            self.room,
            self.filled[item],
            self.last[item],
            (piece.projected[item][here.start :], engine.kernel),
            *(x[item, here].reshape(-1, engine.group) for x in (piece.u, piece.log_scale)),
        )

    def _unwhiten(self, piece: Piece, item: int, here: slice) -> None:
        """Unwhitens some frames."""
        from wavflow.synthesis import unwhitening

        mels, pitch = piece.mels[item, here.start : here.stop + 2], piece.pitch[item, here].reshape(-1, 2)
        u, audio, log_gain = (x[item, here].reshape(-1) for x in (piece.u, piece.audio, piece.log_gain))
        unwhitening.unwhiten(self.engine.filters, mels, pitch, u, self.comb[item], self.audio[item], audio, log_gain)


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
