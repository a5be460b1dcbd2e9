"""Linear mixing: orthogonality, determinants of either sign, inverses that follow the weights."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from flow_checks import assert_round_trip
from helpers import assert_log_det_is_exact, randomized, refused

from wavflow.flows import Householder, InvertibleLinear, Permutation, Reverse, Transform

MAPS: dict[str, Callable[[], Transform]] = {
    "reverse": Reverse,
    "permutation": lambda: Permutation([2, 0, 3, 1]),
    "invertible linear": lambda: randomized(InvertibleLinear(4), 0.5),
    "householder": lambda: randomized(Householder(4, 3), 2.0),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("time", [1, 5])
def test_linear_map_is_exact_both_ways(name: str, time: int) -> None:
    transform, x = MAPS[name](), torch.randn(1, 4, time)
    for direction in (transform, transform.inverse):
        assert_log_det_is_exact(direction, x)
    assert_round_trip(transform, torch.randn(3, 4, time))


def negate(transform: InvertibleLinear) -> InvertibleLinear:
    """Turns the sign of the determinant."""
    transform.sign[1] *= -1
    return transform


def test_determinant_of_either_sign() -> None:
    transform, x = randomized(InvertibleLinear(5), 0.5), torch.randn(1, 5, 2)
    signs = [torch.linalg.slogdet(transform.weight).sign, torch.linalg.slogdet(negate(transform).weight).sign]
    assert sorted(signs) == [-1, 1]
    assert_log_det_is_exact(transform, x)
    assert_round_trip(transform, x)


def test_invertible_linear_starts_as_a_rotation_and_saves_what_it_is() -> None:
    first, second = InvertibleLinear(6), InvertibleLinear(6)
    x = torch.randn(2, 6, 3)
    z, log_det = first(x)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.weight @ first.weight.T, torch.eye(6), rtol=0, atol=1e-12)
    assert (first.weight - torch.eye(6)).abs().max() > 0.1
    torch.testing.assert_close(log_det, torch.zeros(2, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(z, first.weight @ x)
    assert torch.equal(second(x)[0], z)


def test_inverse_is_never_stale() -> None:
    transform, x = InvertibleLinear(4), torch.randn(2, 4, 3)
    optimizer = torch.optim.Adam(transform.parameters(), lr=0.1)
    before = transform(x)[0].detach()
    for _ in range(3):
        optimizer.zero_grad()
        z, log_det = transform(x)
        (z.square().sum() + transform.inverse(z)[0].sum() - log_det.sum()).backward()
        optimizer.step()
        assert_round_trip(transform, x)
    assert (transform(x)[0] - before).abs().max() > 0.1


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30], ids=str)
def test_householder_is_orthogonal_whatever_the_size_of_its_vectors(size: float) -> None:
    transform = Householder(5, 3).float()
    with torch.no_grad():
        transform.vectors.mul_(size)
    log_det = transform(torch.randn(1, 5, 2, dtype=torch.float32))[1]
    torch.testing.assert_close(transform.weight @ transform.weight.T, torch.eye(5, dtype=torch.float32))
    torch.testing.assert_close(torch.linalg.det(transform.weight).item(), -1.0, rtol=0, atol=1e-5)
    assert (log_det == 0).all()


def test_a_zero_householder_vector_reflects_nothing() -> None:
    transform = Householder(3, 2)
    with torch.no_grad():
        transform.vectors.zero_()
    assert torch.equal(transform.weight, torch.eye(3))


@pytest.mark.parametrize("name", ["invertible linear", "householder"])
def test_autocast_rounds_neither_direction(name: str) -> None:
    transform, x = MAPS[name]().float(), torch.randn(2, 4, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = transform(x)
        back, _ = transform.inverse(z)
    torch.testing.assert_close(z, transform(x)[0])
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
    assert log_det.dtype == torch.float32


def test_bad_arguments_are_named() -> None:
    refused(lambda: Permutation([0, 2, 2]), r"`index` must hold each of 0 .. 2 once, got \[0, 2, 2\]")
    refused(lambda: Householder(3, 0), "`n_reflections` must be at least 1, got 0")
    for name in ("permutation", "invertible linear", "householder"):
        for direction in (MAPS[name](), MAPS[name]().inverse):
            refused(partial(direction, torch.randn(1, 3, 1)), r"`x` must be \(B, 4, T\), got \(1, 3, 1\)")
