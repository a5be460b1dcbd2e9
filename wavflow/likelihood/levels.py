"""A teacher's density over the 65536 levels of the next 16-bit sample, as files of the first version have it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wavflow.distributions import Gaussian
from wavflow.flows.elementwise import MixtureCDF
from wavflow.flows.linear_prediction import LinearPrediction, levinson_durbin, spectrum_to_autocorrelation
from wavflow.flows.pitch_prediction import PitchPrediction
from wavflow.synthesis.packing import BLOCK, whole
from wavflow.synthesis.steps import PIECE, StepEngine
from wavflow.vocoder import Vocoder


class LevelDensity:
    """Density of 16-bit audio, sample by sample: a level is k / 32768, its probability that of half a level around it.

    The whitening is affine in the sample, given its past, so the flow's density of the whitened sample is one of the level:
    a mixture (of one, for an affine flow) whose centers and scales are moved along.

    Args:
        teacher: A model whose flow `StepEngine` can step, in float32 on the CPU.
        mel: (1, n_mels, F).
        speaker: Id, for a model with speakers.

    Raises:
        ValueError: For another model.
    """

    @torch.no_grad()
    def __init__(self, teacher: Vocoder, mel: Tensor, speaker: int | None = None) -> None:
        from wavflow.synthesis import coding_kernels  # Numba takes a second to import

        self._kernels, self._teacher, self._mel = coding_kernels, teacher, mel
        self._engine = StepEngine(teacher.flow)
        self._net, tau = self._engine._net, teacher.flow.transform.tau
        components = tau.n_components if isinstance(tau, MixtureCDF) else 0
        self._bijection = (components, float(tau.bound))
        kind = tau.component if components else type(teacher.flow.base)
        self._gaussian, self._mixture = kind is Gaussian, np.zeros((3, max(1, components)))
        self._conditioning = teacher.conditioning(mel, None if speaker is None else torch.tensor([speaker]))
        self._kernel = self._conditioning.kernel.detach().float().contiguous().numpy()
        maps = [] if teacher.whitening is None else list(teacher.whitening.transforms)
        self._linear = maps[0] if maps else None
        self._pitch = next((m for m in maps if isinstance(m, PitchPrediction)), None)
        self._length, self._t = mel.shape[-1] * teacher.hop_length, 0
        self._spans = [(self._net.kernel_size - 1) * int(dilation) for dilation in self._net.dilations]
        self._memory, self._piece = self._empty_memory(), None

    def advance(self, level: int) -> None:
        """Goes on to the next sample, the first one at first; `level` is that of the sample before, 0 at first.

        Raises:
            ValueError: Where the model's parameters are not finite.
        """
        if self._piece is None or self._t == self._piece.start + self._piece.length:
            self._next_piece()
        if not self._kernels.step(self._net, self._bijection, self._memory, self._piece, self._t, level, self._mixture):
            raise ValueError("`teacher` must tell finite parameters, got NaN or infinity: train it again.")
        self._t += 1

    def cdf(self, level: float) -> float:
        """Returns the probability below a level; a whole level and a half is the edge between two."""
        return self._kernels.cdf(level, self._mixture, self._gaussian)

    def quantile(self, probability: float) -> float:
        """Returns the lowest level up to whose upper edge there is that much probability."""
        return self._kernels.quantile(probability, self._mixture, self._gaussian)

    def _empty_memory(self) -> object:
        net, layers, history = self._net, len(self._net.dilations), 1
        if self._linear is not None:
            history = max(history, self._linear.order)
        if self._pitch is not None:
            history = max(history, self._pitch.pitch.longest_lag)
        self._piece_length = whole(PIECE, self._teacher.hop_length)
        rows = np.cumsum([0, *(span + self._piece_length for span in self._spans)])
        return self._kernels.Memory(
            np.empty((layers, BLOCK, 2 * net.channels), np.float32),
            np.zeros(layers, np.int64),
            np.zeros(layers, np.int64),
            np.zeros((rows[-1], net.channels), np.float32),
            rows[:-1],
            np.zeros(history + self._piece_length),
            np.zeros(history + self._piece_length),
            np.array([0.0, 0.0, 1.0]),
        )

    @torch.no_grad()
    def _next_piece(self) -> None:
        """Moves what the steps look back on to the front, and reads the next frames of the mel."""
        memory = self._memory
        if self._piece is not None:
            n = self._piece.length
            for history in (memory.audio, memory.residual):
                history[:-n] = history[n:].copy()
            for first, span in zip(memory.first_rows, self._spans, strict=True):
                memory.past[first : first + span] = memory.past[first + n : first + n + span].copy()
        # Pieces are equally long, so that the histories start at one place; a last one reads frames that are not there.
        hop, n = self._teacher.hop_length, self._piece_length
        first, count = self._t // hop, self._piece_length // hop
        frames = self._engine._features(self._conditioning, first, count)
        self._piece = self._kernels.Piece(self._t, n, frames, self._kernel, *self._whitening(first, count))

    def _whitening(self, first: int, count: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns the block length, coefficients, gains, lags and weights of the blocks of some frames."""
        if self._linear is None:
            return self._piece_length, np.zeros((1, 0)), np.ones(1), np.zeros((1, 0), np.int64), np.zeros((1, 0))
        around = torch.arange(first - 1, first + count + 1).clamp(0, self._mel.shape[-1] - 1)
        mel, linear, pitch = self._mel[..., around], self._linear, self._pitch
        blocks = linear.hop_length // linear.block_length
        inside = slice(blocks, -blocks)  # the frames around are there for the interpolation
        coefficients, log_gain = (part[0, inside] for part in _predictor(linear, self._pitch, mel))
        lags, weights = coefficients.new_zeros(len(log_gain), 0).long(), coefficients.new_zeros(len(log_gain), 0)
        if pitch is not None:
            period, strength = (part[0, inside] for part in pitch.pitch(pitch.at_blocks(mel)))
            lags, kernel = pitch.pitch.taps(period)
            weights = strength.unsqueeze(-1) * kernel
        arrays = (part.double().contiguous().numpy() for part in (coefficients, log_gain.exp()))
        return linear.block_length, *arrays, lags.contiguous().numpy(), weights.double().contiguous().numpy()


def _predictor(linear: LinearPrediction, pitch: PitchPrediction | None, mel: Tensor) -> tuple[Tensor, Tensor]:
    """Returns coefficients and log-gains as `LinearPrediction.predictor` did: before its spectra were smoothed."""
    log_mel = linear.at_blocks(mel)
    power = torch.exp(log_mel @ linear.to_spectrum.double() + linear.spectrum_offset.double())
    upper_half = power[..., power.shape[-1] // 2 :].mean(dim=-1, keepdim=True)
    power = torch.cat([power, upper_half * linear.extrapolation.double()], dim=-1) + linear.floor**2
    if pitch is not None:
        power = power * pitch.pitch.innovation_share(pitch.pitch(log_mel)[1], power.shape[-1])
    coefficients, error = levinson_durbin(power @ spectrum_to_autocorrelation(2 * power.shape[-1] - 2, linear.order))
    return coefficients, 0.5 * error.log()
