"""The recursion that undoes a prediction: its definition, its gradients, and the kernels for a GPU."""

import os
from types import ModuleType

import pytest
import torch
from torch import Tensor

from wavflow.flows import recursion as module
from wavflow.flows.recursion import prediction, recursion

CASES = {  # blocks, their length, taps, shortest lag (None: 1)
    "all-pole": (5, 4, 3, None),
    "of a high order": (3, 4, 9, None),
    "all-pole, a full ring": (4, 16, 32, None),
    "comb": (6, 8, 4, 8),
    "comb, an odd block": (5, 15, 3, 5),
    "comb, lags beyond the signal": (2, 4, 2, 40),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def operands(case: tuple[int, int, int, int | None]) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Random arguments, the lags another with each block."""
    blocks, length, taps, apart = case
    lags = None if apart is None else apart + torch.randint(7, (2, blocks))
    return torch.randn(2, blocks * length), torch.randn(2, blocks, taps) / taps, lags, min(apart or 1, length)


def by_definition(e: Tensor, weights: Tensor, lags: Tensor | None) -> Tensor:
    length, y = e.shape[1] // weights.shape[1], e.clone()
    for b in range(len(e)):
        for t in range(e.shape[1]):
            lag = 1 if lags is None else int(lags[b, t // length])
            for j, weight in enumerate(weights[b, t // length]):
                if t - lag - j >= 0:
                    y[b, t] += weight * y[b, t - lag - j]
    return y


@every_case
def test_it_is_the_recursion(case: tuple) -> None:
    e, weights, lags, apart = operands(case)
    expected = by_definition(e, weights, lags)
    torch.testing.assert_close(recursion(e, weights, lags, apart), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(e + prediction(expected, weights, lags), expected, rtol=0, atol=1e-12)
    low = recursion(e.float(), weights.float(), lags, apart)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), expected, rtol=1e-5, atol=1e-5)


@every_case
def test_gradients_are_exact_twice(case: tuple) -> None:
    e, weights, lags, apart = operands(case)
    inputs = e[:, : 2 * e.shape[1] // len(weights[0])].requires_grad_(), weights[:, :2].requires_grad_()
    lags = None if lags is None else lags[:, :2]
    assert torch.autograd.gradcheck(lambda e, w: recursion(e, w, lags, apart), inputs)
    assert torch.autograd.gradgradcheck(lambda e, w: recursion(e, w, lags, apart), inputs)


def test_nothing_comes_of_nothing() -> None:
    assert recursion(torch.zeros(2, 0), torch.zeros(2, 0, 3)).shape == (2, 0)


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """The Triton kernels, made for the interpreter where there is no GPU: Triton asks as it decorates them."""
    pytest.importorskip("triton", reason="Triton is not there for every platform")
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        from wavflow.kernels import recursions_gpu
    return recursions_gpu


@every_case
@pytest.mark.parametrize("transposed", [False, True])
def test_a_gpu_solves_the_same(case: tuple, transposed: bool, gpu: ModuleType) -> None:
    e, weights, lags, apart = operands(case)
    expected, device = e.clone(), "cuda" if torch.cuda.is_available() else "cpu"
    module._solve(expected, weights, lags, apart, transposed)
    signals = e.to(device)
    gpu.solve(signals, weights.to(device), None if lags is None else lags.to(device), apart, transposed)
    torch.testing.assert_close(signals.cpu(), expected, rtol=0, atol=1e-12)
