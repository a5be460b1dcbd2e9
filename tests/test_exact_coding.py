"""What coded audio is read by: right to float64's precision, and the same to the last bit wherever it is computed."""

import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable

import kept_coding
import numpy as np
import pytest
import scipy.special
import torch
from helpers import random_log_mel
from numba import njit
from numba.core.dispatcher import Dispatcher
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

import wavflow.models
from wavflow import MelSpectrogram
from wavflow.likelihood import arithmetic, exact_coding, exact_density, exact_whitening, mel_code, range_coding
from wavflow.likelihood.exact_whitening import ExactWhitening, filterbank

# The least that any x86 processor has: neither wide vectors nor fused multiplication and addition, which this one will have.
OTHER = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"}
OTHER["NPY_DISABLE_CPU_FEATURES"] = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])


def test_files_of_before_are_read() -> None:
    kept_coding.decode_all()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is another processor altogether")
def test_files_are_read_on_another_processor() -> None:
    subprocess.run([sys.executable, kept_coding.__file__], env=os.environ | OTHER, check=True)


def unsure(function: Callable, signature: tuple) -> set[str]:
    """Compiles it anew; returns what in its code may give other bits elsewhere: flags, intrinsics, functions of libraries."""
    fresh = njit(error_model="numpy", nogil=True)(function)
    fresh.compile(signature)
    code = fresh.inspect_llvm(fresh.signatures[0])
    operations = re.findall(r"= (?:tail call )?f(?:add|sub|mul|div|neg|cmp)((?: [a-z]+)*) (?:float|double|<)", code)
    flags = {flag for words in operations for flag in words.split()} & {"fast", "contract", "reassoc", "arcp", "afn", "nsz"}
    called = set(re.findall(r"^declare .*?@\"?([\w.]+)", code, re.MULTILINE))
    inexact = r"llvm\.(experimental\.)?(fma|fmuladd|exp|log|pow|a?(sin|cos|tan)|vector\.reduce\.f|constrained)"
    return flags | {name for name in called if re.match(rf"{inexact}|(?!llvm\.|_?Py|NRT_|numba_|sqrt$)", name)}


@pytest.mark.slow
def test_no_operation_is_left_to_the_machine() -> None:
    kept_coding.decode_all()
    modules = (arithmetic, exact_density, exact_coding, exact_whitening, mel_code, range_coding)
    kernels = {f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher) and f.signatures}
    assert {"follow", "code_mel", "exp_each"} <= {kernel.__name__ for kernel in kernels}
    inner = {name for kernel in kernels for name in kernel.py_func.__code__.co_names}  # compiled into those that call them
    for kernel in kernels:
        for signature in kernel.signatures if kernel.__name__ not in inner else ():
            assert unsure(kernel.py_func, signature) == set(), kernel


def test_what_may_differ_is_found() -> None:
    from numba import float64

    def with_exp(x):
        return math.exp(x)

    assert unsure(with_exp, (float64,))
    fused = njit(fastmath={"contract"})(lambda x, y, z: x * y + z)
    assert "contract" in unsure(lambda x, y, z: fused(x, y, z), (float64, float64, float64))


@pytest.mark.parametrize(
    ("own", "known", "x"),
    [
        (arithmetic.exp, np.exp, np.linspace(-700, 700, 3001)),
        (arithmetic.log, np.log, np.exp(np.linspace(-600, 600, 3001))),
        (arithmetic.tanh, np.tanh, np.linspace(0.5, 30, 500)),
        (arithmetic.normal_cdf, scipy.special.ndtr, np.linspace(-25, 9, 3001)),
    ],
)
def test_functions_are_right(own: Callable, known: Callable, x: np.ndarray) -> None:
    np.testing.assert_allclose([own(value) for value in x], known(x), rtol=2e-13, atol=1e-300)


def test_functions_are_right_where_they_are_small_and_far_out() -> None:
    x = np.linspace(-3, 3, 1201)
    np.testing.assert_allclose([arithmetic.cosine(value) for value in x], np.cos(2 * np.pi * x), rtol=0, atol=1e-14)
    np.testing.assert_allclose([arithmetic.tanh(value) for value in x / 9], np.tanh(x / 9), rtol=0, atol=1e-15)
    assert (arithmetic.tanh(-1e9), arithmetic.tanh(1e9)) == (-1.0, 1.0)
    assert arithmetic.normal_cdf(1e9) == 1.0
    assert arithmetic.normal_cdf(-1e9) < 1e-300


def test_products_and_gates_are_right() -> None:
    generator = np.random.default_rng(0)
    x, w, y = (generator.standard_normal(shape) for shape in ((3, 11), (11, 5), (3, 5)))
    expected = y + x @ w
    arithmetic.add_products(y, x, w)
    np.testing.assert_allclose(y, expected, rtol=1e-13)
    y = generator.uniform(-12, 12, 26).astype(np.float32)
    expected = np.tanh(y[:13].astype(float)) * (1 + np.tanh(y[13:].astype(float)))
    gated = np.empty(13, np.float32)
    arithmetic.gate(gated, y, np.empty_like(y))
    np.testing.assert_allclose(gated, expected, atol=3e-7)


MELS = {
    "with pitch": kept_coding.MEL,
    "to the last bin": kept_coding.MEL | {"f_max": 4000.0, "center": True, "win_length": 400},
    "without pitch": {"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "win_length": 64, "n_mels": 8, "f_max": 4000.0},
    "no mel": {"sample_rate": 8000, "n_fft": 64, "hop_length": 18, "win_length": 64, "n_mels": 0, "f_max": 4000.0},
}


@pytest.mark.parametrize("name", MELS)
def test_filters_are_those_of_the_whitening(name: str) -> None:
    vocoder = wavflow.models.teacher(mel=MELS[name], layers=1, channels=4, features=4, whitening=10)
    linear, *rest = vocoder.whitening.transforms
    assert bool(rest) == ("with pitch" in name or "last bin" in name)
    time = torch.arange(8000) / 8000.0
    voice = 0.3 * torch.sin(2 * math.pi * 150 * time[:, None] * torch.arange(1, 20)).sum(dim=1) / 19
    mel = vocoder.mel(voice[None, :6400] + 0.001 * torch.randn(6400)) if vocoder.mel.n_mels else torch.zeros(1, 0, 9)
    mel[..., :5] += random_log_mel(5, n_mels=vocoder.mel.n_mels)
    frames = torch.cat([mel[..., :1], mel, mel[..., -1:]], dim=-1)[0].T.contiguous().numpy()
    filters = ExactWhitening(vocoder.mel, linear, rest[0].pitch if rest else None).filters(frames)

    # Apart by the float32 of torchaudio's filterbank.
    coefficients, log_gain = linear.predictor(mel)
    np.testing.assert_allclose(filters.coefficients, coefficients[0], rtol=0, atol=2e-4)
    np.testing.assert_allclose(np.log(filters.gain), log_gain[0], rtol=0, atol=1e-5)
    if rest:
        period, strength = rest[0].pitch(rest[0].at_blocks(mel))
        lags, kernel = rest[0].pitch.taps(period)
        assert (strength > 0.5).any()
        np.testing.assert_array_equal(filters.lags, lags[0])
        np.testing.assert_allclose(filters.weights, (strength.unsqueeze(-1) * kernel)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("spec", [kept_coding.MEL, {}], ids=["8 kHz", "22 kHz"])
def test_filterbank_is_that_of_the_mel(spec: dict) -> None:
    mel = MelSpectrogram(**spec)
    np.testing.assert_allclose(filterbank(mel), mel.filterbank, rtol=0, atol=1e-6)


@pytest.mark.parametrize("carries", [False, True])
def test_symbols_come_back_at_the_size_that_their_intervals_tell(carries: bool) -> None:
    generator = np.random.default_rng(0)
    edges = np.array([0, 1, 2**12, 2**29, range_coding.WHOLE - 1, range_coding.WHOLE])
    widths = np.diff(edges)
    symbols = generator.choice(5, 4000, p=widths / widths.sum())
    symbols[::50] = generator.choice(5, 80)
    if carries:  # the very top of the range, again and again, so that what follows carries into the bytes before
        symbols[:3000] = np.where(np.arange(3000) % 40 == 39, 2, 3)
        symbols[1500:1600] = 4
    coder = range_coding.writer(4 * len(symbols))
    range_coding.put_all(coder, np.stack([edges[symbols], widths[symbols]], axis=1))
    data = range_coding.written(coder)
    bits = (range_coding.PRECISION - np.log2(widths[symbols])).sum()
    assert 8 * len(data) <= bits + 16
    coder, read = range_coding.reader(data), []
    for _ in symbols:
        unit = range_coding.peek(coder)
        read.append(np.searchsorted(edges, unit, side="right") - 1)
        range_coding.take(coder, edges[read[-1]], widths[read[-1]])
    np.testing.assert_array_equal(read, symbols)


@pytest.mark.parametrize("kind", [range_coding.GAUSSIAN, range_coding.LOGISTIC, range_coding.LAPLACE])
@pytest.mark.parametrize(("center", "scale"), [(0.0, 50.0), (-40000.0, 3.0), (32767.0, 1e-4), (12.3, 1e6), (5.0, 1e-9)])
def test_each_symbol_has_an_interval_of_its_own(kind: int, center: float, scale: float) -> None:
    mixture = np.array([[0.25, 0.75], [center, center + 7.0], [scale, 2.0 * scale]])
    low, high = exact_coding.LOWEST, exact_coding.HIGHEST
    starts = np.array([range_coding.start_of(symbol, low, high, mixture, kind) for symbol in range(low, high + 2)])
    assert (starts[0], starts[-1]) == (0, range_coding.WHOLE)
    assert (np.diff(starts) > 0).all()
    for symbol in (low, -7, 12, 13, high):
        for unit in (starts[symbol - low], starts[symbol - low + 1] - 1):
            assert range_coding.find(unit, low, high, mixture, kind) == symbol
