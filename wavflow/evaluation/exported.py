"""Compares exported graphs with the model that they were made from, and times them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavflow.evaluation.metrics import log_spectral_distance
from wavflow.synthesis.export import export_library
from wavflow.synthesis.student import CONTEXT
from wavflow.vocoder import Vocoder


class Check(NamedTuple):
    """Size, accuracy and speed of an exported graph."""

    megabytes: float
    difference: float  # the largest, from the model's own audio
    distance: float  # log-spectral, dB
    speed: float  # x real time, one thread


def check(
    path: str | os.PathLike[str],
    vocoder: Vocoder,
    mel: Tensor,
    noise: Tensor,
    speaker: Tensor | None = None,
    passes: int = 0,
) -> Check:
    """Samples one clip with a graph and with its model: mel (1, n_mels, F), noise (1, F * hop_length)."""
    expected = vocoder.sample(mel, noise, speaker=speaker, passes=passes, fast=False)[0]
    session = open_graph(path)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        audio = torch.from_numpy(run(session, mel, noise, speaker)[0])
        seconds.append(time.perf_counter() - started)
    distance = log_spectral_distance(audio, expected)
    length = len(audio) / vocoder.sample_rate
    return Check(Path(path).stat().st_size / 1e6, (audio - expected).abs().max().item(), distance, length / min(seconds))


def open_graph(path: str | os.PathLike[str]) -> Any:
    """Opens a graph in onnxruntime, for one thread.

    Raises:
        ValueError: When onnxruntime is not installed.
    """
    onnxruntime = export_library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> np.ndarray:
    """Returns audio (B, F * hop_length) of mel (B, n_mels, F) and noise (B, F * hop_length), from either form of graph."""
    given = {"mel": mel.numpy(), "noise": noise.numpy()} | ({} if speaker is None else {"speaker": speaker.numpy()})
    if len(session.get_inputs()) == 1:
        del given["noise"]  # it draws its own
    state = {
        item.name: np.zeros((len(mel), *item.shape[1:]), np.float64 if item.type == "tensor(double)" else np.float32)
        for item in session.get_inputs()
        if item.name not in given
    }
    if not state:
        return session.run(["audio"], given)[0]
    side, hop_length, chunks = CONTEXT, noise.shape[-1] // mel.shape[-1], []
    padded = np.pad(given["mel"], ((0, 0), (0, 0), (side, side)), constant_values=np.nan)
    for f in range(mel.shape[-1]):
        given["mel"] = padded[..., f : f + 1 + 2 * side]
        given["noise"] = noise.numpy()[:, f * hop_length : (f + 1) * hop_length]
        audio, *after = session.run(["audio", *(f"{name}.next" for name in state)], given | state)
        state = dict(zip(state, after, strict=True))
        chunks.append(audio)
    return np.concatenate(chunks, axis=1)
