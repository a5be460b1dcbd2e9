"""The recursion that undoes a prediction: its definition and its gradients."""

import pytest
import torch
from torch import Tensor

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


def operands(case: tuple[int, int, int, int | None]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Random arguments, the lags another with each block."""
    blocks, length, taps, shortest = case
    lags = None if shortest is None else shortest + torch.randint(7, (2, blocks))
    return torch.randn(2, blocks * length), torch.randn(2, blocks, taps) / taps, lags


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
    e, weights, lags = operands(case)
    expected = by_definition(e, weights, lags)
    torch.testing.assert_close(recursion(e, weights, lags), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(e + prediction(expected, weights, lags), expected, rtol=0, atol=1e-12)
    low = recursion(e.float(), weights.float(), lags)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), expected, rtol=1e-5, atol=1e-5)


@every_case
def test_gradients_are_exact_twice(case: tuple) -> None:
    e, weights, lags = operands(case)
    inputs = e[:, : 2 * e.shape[1] // len(weights[0])].requires_grad_(), weights[:, :2].requires_grad_()
    lags = None if lags is None else lags[:, :2]
    assert torch.autograd.gradcheck(lambda e, w: recursion(e, w, lags), inputs)
    assert torch.autograd.gradgradcheck(lambda e, w: recursion(e, w, lags), inputs)


def test_nothing_comes_of_nothing() -> None:
    assert recursion(torch.zeros(2, 0), torch.zeros(2, 0, 3)).shape == (2, 0)
