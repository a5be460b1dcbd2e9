"""A teacher's density over the 65536 values of each next 16-bit sample, in the coder's own arithmetic.

The probability of a value k is that of the interval k / 32768 +- 1 / 65536. Given the past, the whitening is affine in the
sample. So the flow's density of the whitened sample is also a density of the value: a mixture (of one component, for an affine
flow) whose centers and scales are mapped by the inverse of the whitening.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from wavflow.distributions import Gaussian
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.elementwise import Affine, MixtureCDF
from wavflow.flows.linear_prediction import LinearPrediction
from wavflow.flows.pitch_prediction import PitchPrediction
from wavflow.likelihood.arithmetic import add_products
from wavflow.likelihood.exact_coding import LOWEST, Chunk, Memory, Net, follow
from wavflow.likelihood.exact_whitening import ExactWhitening, Filters
from wavflow.likelihood.range_coding import GAUSSIAN, LOGISTIC, PRECISION, Coder, code_evenly, code_rare, put_all, writer
from wavflow.nn.wavenet import WaveNet
from wavflow.vocoder import Vocoder

CHUNK = 1024  # samples, at least, that are coded by their density or, where that is shorter, as they are


class ExactDensity:
    """Codes the samples of one channel.

    Args:
        teacher: A model whose flow `StepEngine` can step, in float32 on the CPU.
        mel: (n_mels, F) float64.
        speaker: Id, for a model with speakers.
    """

    def __init__(self, teacher: Vocoder, mel: np.ndarray, speaker: int | None = None) -> None:
        teacher.check_speaker(None if speaker is None else torch.tensor([speaker]))
        transform = teacher.flow.transform
        assert isinstance(transform, Autoregressive)
        wavenet, tau = transform.conditioner, transform.tau
        assert isinstance(wavenet, WaveNet)
        assert isinstance(tau, Affine | MixtureCDF)
        components, kind = (tau.n_components, tau.component) if isinstance(tau, MixtureCDF) else (0, type(teacher.flow.base))
        self._bijection = (components, float(tau.bound), GAUSSIAN if kind is Gaussian else LOGISTIC)
        self._net = _net(wavenet)
        self._projection = _array(wavenet.get_parameter("features.weight")).T.astype(np.float64)
        self._mel, self._features = np.ascontiguousarray(mel.T), _features(teacher, mel.T, speaker)
        self._hop_length, self._kernel = teacher.hop_length, _array(teacher.upsampler.kernel)
        maps = [] if teacher.whitening is None else list(teacher.whitening.transforms)
        linear = next((m for m in maps if isinstance(m, LinearPrediction)), None)
        pitch = next((m.pitch for m in maps if isinstance(m, PitchPrediction)), None)
        self._whitening = None if linear is None else ExactWhitening(teacher.mel, linear, pitch)
        self._frames = -(-CHUNK // self._hop_length)
        self._block_length = self._frames * self._hop_length if linear is None else linear.block_length
        self._no_filters = Filters(np.zeros((1, 0)), np.ones(1), np.zeros((1, 0), np.int64), np.zeros((1, 0)))
        self._no_reader = writer(0)
        self._spans = (self._net.gates.shape[1] - 1) * self._net.dilations
        length = self._frames * self._hop_length
        ends = np.cumsum(self._spans + length)
        inputs = np.zeros((ends[-1], len(self._net.input)), np.float32)
        audio, residual = np.zeros((2, length + max(1, linear.order if linear else 0, pitch.longest_lag if pitch else 0)))
        self._memory = Memory(inputs, ends - length, audio, residual, np.array([0.0, 0.0, 1.0]))

    def code(self, coder: Coder, values: np.ndarray) -> Iterator[int]:
        """Writes int16 samples (T,), or fills them as it reads; yields after each chunk how many these were.

        Raises:
            ValueError: Where the model's parameters are not finite.
        """
        for first in range(0, len(self._mel), self._frames):
            start = first * self._hop_length
            part = values[start : start + self._frames * self._hop_length]
            if coder.reads:
                known = code_rare(coder, False)
                if known:
                    code_evenly(coder, part, LOWEST, 16)
                self._follow(first, part, None if known else coder)
            else:
                intervals = self._follow(first, part)
                costly = bool((intervals[:, 1] < 1).any()) or (PRECISION - np.log2(intervals[:, 1])).sum() > 16 * len(part)
                if code_rare(coder, costly):
                    code_evenly(coder, part, LOWEST, 16)
                else:
                    put_all(coder, intervals)
            yield len(part)

    def _follow(self, first: int, values: np.ndarray, coder: Coder | None = None) -> np.ndarray:
        """Goes through the samples (n,) from the frame `first` on, filling them if there is a reader.

        Returns:
            Start and width, of 2^30, of the interval of each sample that was given, int64 (n, 2).
        """
        memory, frames, intervals = self._memory, self._frames, np.zeros((len(values), 2), np.int64)
        if first:  # what the chunk looks back on moves to the front
            n = frames * self._hop_length
            for history in (memory.audio, memory.residual):
                history[:-n] = history[n:].copy()
            for row, span in zip(memory.rows, self._spans, strict=True):
                memory.inputs[row - span : row] = memory.inputs[row - span + n : row + n].copy()
        # The edge frames are held; a last chunk reads frames that are not there.
        around = np.arange(first - 1, first + frames + 1).clip(0, len(self._mel) - 1)
        sums = np.zeros((frames + 2, self._projection.shape[1]))
        add_products(sums, self._features[around], self._projection)
        projected = sums.astype(np.float32).reshape(frames + 2, len(self._net.dilations), -1)
        filters = self._no_filters if self._whitening is None else self._whitening.filters(self._mel[around])
        chunk = Chunk(projected, self._kernel, self._block_length, *filters)
        if not follow(self._net, self._bijection, memory, chunk, values, intervals, coder or self._no_reader):
            raise ValueError("`teacher` must tell finite parameters, got NaN or infinity: train it again.")
        return intervals


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().contiguous().numpy()


def _net(wavenet: WaveNet) -> Net:
    """Copies a WaveNet's weights."""
    channels, skip = wavenet.channels, wavenet.head.in_features
    outputs = np.zeros((len(wavenet.outputs), channels + 1, skip + channels), np.float32)  # and the bias
    weights, biases = ([_array(module.get_parameter(name)) for module in wavenet.outputs] for name in ("weight", "bias"))
    for matrix, weight, bias in zip(outputs, weights, biases, strict=True):
        matrix[:-1, : len(bias)], matrix[-1, : len(bias)] = weight.T, bias
    gates = [_array(gate.get_parameter("weight")).T.reshape(wavenet.kernel_size, channels, -1) for gate in wavenet.gates]
    head, last = (np.ascontiguousarray(_array(linear.weight).T) for linear in (wavenet.head, wavenet.last))
    return Net(
        np.array(wavenet.dilations),
        _array(wavenet.input.weight)[:, 0],
        _array(wavenet.input.bias),
        np.stack(gates),
        np.stack([_array(gate.get_parameter("bias")) for gate in wavenet.gates]),
        np.ascontiguousarray(outputs[:, :-1]),
        np.ascontiguousarray(outputs[:, -1]),
        np.float32(math.sqrt(1.0 / len(outputs))),
        head,
        _array(wavenet.head.bias),
        last,
        _array(wavenet.last.bias),
    )


def _features(teacher: Vocoder, mel: np.ndarray, speaker: int | None) -> np.ndarray:
    """Returns the features of a mel (F, n_mels), by the upsampler, plus those of the speaker: (F, K) float64."""
    upsampler, frames = teacher.upsampler, np.arange(len(mel))
    mix, refine = _array(upsampler.mix.weight), _array(upsampler.refine.weight)[..., 0]
    x = (mel - float(upsampler.get_buffer("mean"))) / float(upsampler.get_buffer("scale"))
    mixed = np.repeat(_array(upsampler.mix.get_parameter("bias")).astype(np.float64)[None], len(mel), axis=0)
    for k in range(mix.shape[2] if mel.shape[1] else 0):
        add_products(mixed, x[(frames + k - 1).clip(0, len(mel) - 1)], np.ascontiguousarray(mix[..., k].T.astype(np.float64)))
    refined = np.repeat(_array(upsampler.refine.get_parameter("bias")).astype(np.float64)[None], len(mel), axis=0)
    add_products(refined, np.maximum(mixed, 0.2 * mixed), np.ascontiguousarray(refine.T.astype(np.float64)))
    features = np.maximum(refined, 0.2 * refined)
    return features if teacher.speakers is None else features + _array(teacher.speakers.weight)[speaker]
