"""State of one streaming synthesis by the compiled engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavflow.synthesis.packing import ROWS, TILE, to_numpy, whole
from wavflow.synthesis.pipeline import Pipeline

if TYPE_CHECKING:
    from wavflow.synthesis.parallel import ParallelEngine

PIECE = 256  # frames drawn at once, at most
STRIDES = 16  # parts of a piece, where threads share it; a thread takes one part through one stage at a time
THREADED = 16  # frames from which on threads share a piece; of fewer, a part is hardly worth a thread's waking


class Piece(NamedTuple):
    """Arrays of a piece of F frames, which the stages of a draw share."""

    mels: np.ndarray  # (B, F + 2, n_mels), from the frame before the first one to that after the last
    projected: list[np.ndarray]  # of each item, features of these frames for all layers
    u: np.ndarray  # (B, F, hop_length) noise; then what the stages make of it
    log_scale: np.ndarray  # (B, F, hop_length) log |du/dz| of these stages
    log_prob: Tensor  # (B, F * hop_length) of the noise
    pitch: np.ndarray  # (B, F, blocks of a frame, 2), see `unwhitening.pitches`
    last: bool = False  # of those that one push brings

    @property
    def frames(self) -> int:
        return self.u.shape[1]


Stage = Callable[[int, tuple[Piece, slice]], None]  # on an item, some of its frames


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
        first_rows = np.cumsum([0, *(spans + ROWS)])
        self.first_rows, self.past = first_rows[:-1], np.zeros((batch, (first_rows[-1] + TILE) * words), net.gates.dtype)
        self.filled = np.zeros((batch, engine.flows), np.intp)
        self.last = np.zeros((batch, engine.flows, engine.group), np.float32)
        filters = engine.filters
        self.comb = np.zeros((batch, filters.longest_lag if filters else 0))
        self.audio = np.zeros((batch, filters.to_autocorrelation.shape[1] - 1 if filters else 0))
        self.phase = np.zeros(batch)  # of the harmonic source
        self.mels = np.zeros((batch, 0, vocoder.mel.n_mels), np.float32)
        self.features = np.zeros((batch, 0, whole(vocoder.upsampler.channels, TILE)), np.float32)
        self.started = self.ended = False

    def push(self, mel: Tensor, noise: Callable[[int], Tensor], last: bool = False) -> tuple[Tensor, Tensor]:
        """Takes further frames (B, n_mels, F) and draws what can be drawn.

        Args:
            mel: Frames; F may be 0.
            noise: Called with a number n of samples; returns noise (B, n), temperature included.
            last: Whether no more frames will come.

        Returns:
            Audio (B, n), the next n samples, and its log-density (B, n) in nats per sample.

        Raises:
            ValueError: After the last frame, or with another number of items.
        """
        audio, log_prob, _ = zip(*self._drawn(mel, noise, last), strict=True)
        return torch.cat(audio, dim=1), torch.cat(log_prob, dim=1)

    def pieces(self, mel: Tensor, noise: Callable[[int], Tensor], last: bool = False) -> Iterator[tuple[Tensor, bool]]:
        """Yields the audio of `push` (B, n) piece by piece, and whether the piece is the last one.

        Where several threads share the work, they draw the next pieces while the caller has this one.
        """
        return ((audio, end) for audio, _, end in self._drawn(mel, noise, last))

    @torch.no_grad()
    def _drawn(self, mel: Tensor, noise: Callable[[int], Tensor], last: bool) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Yields audio (B, n), log-density (B, n), and whether the piece is the last one."""
        if self.ended:
            raise ValueError("`mel`: this stream has ended: start another.")
        if len(mel) != self.batch:
            raise ValueError(f"`mel` must have the stream's {self.batch} items, got {len(mel)}.")
        self.ended = last
        frames = np.ascontiguousarray(to_numpy(mel.transpose(1, 2)))
        threads = torch.get_num_threads() if frames.shape[1] >= THREADED else 1
        parts = self._parts(frames, noise, last, threads)
        chains = [[partial(stage, item) for stage in self._stages()] for item in range(self.batch)]
        for piece, here in parts if threads == 1 else Pipeline(parts, chains, self.engine.pool, threads):
            if threads == 1 and piece.frames:  # a pipeline would make a stream of single frames 10 % slower
                for stage in itertools.chain.from_iterable(chains):
                    stage((piece, here))
            if here.stop == piece.frames:
                audio, log_scale = (torch.from_numpy(x.reshape(self.batch, -1)) for x in (piece.u, piece.log_scale))
                yield audio, piece.log_prob - log_scale, piece.last

    def _parts(
        self, mels: np.ndarray, noise: Callable[[int], Tensor], last: bool, threads: int
    ) -> Iterator[tuple[Piece, slice]]:
        """Yields what is to be drawn of further mels (B, F, n_mels): pieces, and the frames of each that are one part."""
        pieces = [mels[:, i : i + PIECE] for i in range(0, mels.shape[1], PIECE)] or [mels]
        for i, frames in enumerate(pieces):
            end = i == len(pieces) - 1
            piece = self._prepare(frames, noise, last and end)._replace(last=end)
            size = max(1, piece.frames if threads == 1 else -(-piece.frames // STRIDES))
            for start in range(0, max(1, piece.frames), size):
                yield piece, slice(start, min(start + size, piece.frames))

    def _prepare(self, mels: np.ndarray, noise: Callable[[int], Tensor], last: bool) -> Piece:
        """Returns the frames that can be drawn once (B, F, n_mels) have come, at most a piece.

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
        return self._piece(mels[:, : ready + 2], features[:, : ready + 2], ready, noise)

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

    def _piece(self, mels: np.ndarray, features: np.ndarray, frames: int, noise: Callable[[int], Tensor]) -> Piece:
        """Returns a piece of frames before any stage; mels and features have one frame more on either side."""
        engine, hop = self.engine, self.engine.vocoder.hop_length
        z, layers = noise(frames * hop), len(engine.net.dilations)
        no_bias = np.zeros(engine.projection.shape[0] * TILE, np.float32)
        projected = [_multiply(with_spare(item), engine.projection, no_bias, frames + 2) for item in features]
        u = np.array(to_numpy(z), np.float32, order="C").reshape(self.batch, frames, hop)  # a copy: stages change it
        return Piece(
            np.ascontiguousarray(mels),
            [item.reshape(-1, layers, 2 * engine.net.channels) for item in projected],
            u,
            np.zeros_like(u),
            engine.vocoder.flow.base_log_prob(z.unsqueeze(1)),
            np.empty((self.batch, frames, engine.filters.kernel.shape[1], 2) if engine.filters else 0),
        )

    def _stages(self) -> list[Stage]:
        flows: list[Stage] = [partial(self._apply_flow, flow) for flow in range(self.engine.flows)]
        return [self._add_pulses, *flows, self._unwhiten] if self.engine.filters else flows

    def _add_pulses(self, item: int, part: tuple[Piece, slice]) -> None:
        """Reads the pitch of some frames, and adds pulses to their noise."""
        from wavflow.synthesis import unwhitening

        (piece, here), filters, source = part, self.engine.filters, self.engine.vocoder.source
        pitch = unwhitening.pitches(filters, piece.mels[item, here.start : here.stop + 2])
        piece.pitch[item, here] = pitch.reshape(piece.pitch[item, here].shape)
        if source is not None:
            noise, log_sigma = (x[item, here].reshape(-1) for x in (piece.u, piece.log_scale))
            phase = self.phase[item]
            self.phase[item] = unwhitening.add_pulses(filters, pitch, source.share, source.width, phase, noise, log_sigma)

    def _apply_flow(self, flow: int, item: int, part: tuple[Piece, slice]) -> None:
        """Takes some frames of noise through a flow, in place."""
        from wavflow.synthesis import blocks

        (piece, here), engine = part, self.engine
        blocks.draw(
            engine.net,
            flow,
            engine.flows,
            engine.bound,
            self.past[item],
            self.first_rows,
            self.filled[item],
            self.last[item],
            (piece.projected[item][here.start :], engine.kernel),
            *(x[item, here].reshape(-1, engine.group) for x in (piece.u, piece.log_scale)),
        )

    def _unwhiten(self, item: int, part: tuple[Piece, slice]) -> None:
        """Unwhitens some frames."""
        from wavflow.synthesis import unwhitening

        piece, here = part
        mels, pitch = piece.mels[item, here.start : here.stop + 2], piece.pitch[item, here].reshape(-1, 2)
        u, log_scale = (x[item, here].reshape(-1) for x in (piece.u, piece.log_scale))
        unwhitening.unwhiten(self.engine.filters, mels, pitch, u, log_scale, self.comb[item], self.audio[item])


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
