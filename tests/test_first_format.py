"""Coded files of the first version are read: by a writer of that version, which the library no longer has."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from helpers import random_log_mel, refused, tiny_teacher
from kept_coding import MEL

from wavflow import Vocoder
from wavflow.likelihood import codec, exact_whitening, levels
from wavflow.likelihood.exact_whitening import ExactWhitening
from wavflow.likelihood.mel_code import coarse, fine

constriction = pytest.importorskip("constriction", reason="needs constriction: pip install 'wavflow[compress]'")
from wavflow.likelihood import first_format  # noqa: E402


def first_version(pcm: np.ndarray, teacher: Vocoder, speaker: int | None = None) -> bytes:
    """Codes int16 samples (channels, T) as the first version did: its reader goes through them, and is told what to read."""
    encoder = constriction.stream.queue.RangeEncoder()
    frames = -(-pcm.shape[1] // teacher.hop_length)
    grids = [coarse(codec._mel(channel, teacher), 0.5, 2) for channel in pcm]
    low, high = min(grid.min() for grid in grids), max(grid.max() for grid in grids)

    def writer(symbols: np.ndarray):
        left = iter(symbols.tolist())

        def write(model: object) -> int:
            encoder.encode(symbol := next(left), model)
            return symbol

        return write

    for channel, grid in zip(pcm, grids, strict=True):
        first_format.read_mel(writer(grid.T.ravel()), np.zeros_like(grid), int(low), int(high))
        mel = torch.from_numpy(fine(grid, 0.5, 2, frames))[None].float()
        density = levels.LevelDensity(teacher, mel, speaker)
        first_format._read_samples(writer(channel), np.zeros_like(channel), density, lambda samples: None)
    header = {"samples": pcm.shape[1], "channels": len(pcm), "sample_rate": 8000, "speaker": speaker, "mel_step": 0.5}
    header |= {"mel_stride": 2, "mel_range": [int(low), int(high)], "crc32": zlib.crc32(np.ascontiguousarray(pcm))}
    text = json.dumps(header | {"model": codec.fingerprint(teacher, 1)}).encode()
    data = b"wavflow1" + struct.pack("<I", len(text)) + text + encoder.get_compressed().astype("<u4").tobytes()
    return data + struct.pack("<I", zlib.crc32(data))


@pytest.mark.parametrize(("changes", "speaker"), [({"n_speakers": 3}, 2), ({"mel": MEL}, None), ({"whitening": 0}, None)])
def test_files_of_the_first_version_are_read(changes: dict, speaker: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher(std=0.15, **changes).float()
    pcm = np.round(2000 * np.random.default_rng(0).standard_normal((2, 1300))).astype(np.int16)
    data, done = first_version(pcm, teacher, speaker), []
    samples, rate = codec.decode(data, teacher, done.append)
    np.testing.assert_array_equal(samples, pcm)
    assert (rate, sum(done)) == (8000, pcm.size)
    exact = levels.LevelDensity.cdf
    monkeypatch.setattr(levels.LevelDensity, "cdf", lambda self, level: exact(self, level + 1e-3))
    refused(lambda: codec.decode(data, teacher), r"can't be decoded here.*computes otherwise")


def test_their_filters_are_those_of_spectra_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LAG_WINDOW": 0.0, "WHITE_NOISE": 0.0, "LARGEST_FALL": 1e9}.items():
        monkeypatch.setattr(exact_whitening, name, value)
    teacher = tiny_teacher(mel=MEL, whitening=12)
    linear, periodic = teacher.whitening.transforms
    mel = random_log_mel(9, n_mels=40)
    coefficients, log_gain = levels._predictor(linear, periodic, mel)
    frames = torch.cat([mel[..., :1], mel, mel[..., -1:]], dim=-1)[0].T.contiguous().numpy()
    filters = ExactWhitening(teacher.mel, linear, periodic.pitch).filters(frames)
    np.testing.assert_allclose(filters.coefficients, coefficients[0], rtol=0, atol=2e-4)
    np.testing.assert_allclose(np.log(filters.gain), log_gain[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("density", ["gaussian", "mixture_of_logistics"])
def test_their_probabilities_are_those_of_the_density(density: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "PIECE", 200)  # several pieces, so that what they look back on has to move
    teacher = tiny_teacher(std=0.15, layers=6, dilation_cycle=6, density=density, whitening=0).float()
    mel = random_log_mel(40).float()
    pcm = np.round(2000 * np.random.default_rng(0).standard_normal(640)).astype(np.int16)
    told, level, known = [], 0, levels.LevelDensity(teacher, mel)
    for symbol in pcm.tolist():
        known.advance(level)
        level = symbol
        told.append(known.cdf(level + 0.5) - known.cdf(level - 0.5))
        assert known.quantile(known.cdf(level + 0.25)) == level
    with torch.no_grad():
        expected = teacher.double().log_prob(torch.from_numpy(pcm / 32768.0)[None], mel.double())[0]
    told = torch.from_numpy(np.array(told))
    seen = told > 1e-9  # beyond, a difference of cumulated probabilities has no digits left
    assert seen.sum() > 100
    torch.testing.assert_close(told[seen].log() + np.log(32768), expected[seen], rtol=0, atol=5e-3)
