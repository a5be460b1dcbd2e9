"""MintNet: triangular, positive, exact both ways, solved whatever its weights, differentiable through the solution."""

import math
from functools import partial

import pytest
import torch
from flow_checks import assert_density_of_two_features_integrates_to_one, assert_one_graph, assert_round_trip
from helpers import jacobian, randomized, refused
from torch import Tensor

from wavflow.distributions import Gaussian
from wavflow.flows import Chain, Flow, Inverse, NotConvergedError, Transform
from wavflow.flows.mintnet import MintLayer
from wavflow.flows.named import mintnet

SHAPES = {"vector": (4, 1, 1), "audio": (1, 9, 3), "both": (2, 4, 2)}  # channels, time, kernel size
every_shape = pytest.mark.parametrize("shape", SHAPES)
both_halves = pytest.mark.parametrize("upper", [False, True], ids=["lower", "upper"])


def layer(shape: str, upper: bool = False, std: float = 0.3) -> tuple[MintLayer, Tensor]:
    channels, time, kernel_size = SHAPES[shape]
    return randomized(MintLayer(channels, 6, kernel_size, upper), std), torch.randn(1, channels, time)


def square(transform: Transform, x: Tensor, direction: str = "forward") -> Tensor:
    """The Jacobian as a matrix, elements in the order of time and, within a time step, of channels."""
    return jacobian(lambda x: getattr(transform, direction)(x)[0], x).reshape(x.numel(), x.numel())


@every_shape
@both_halves
def test_jacobian_is_triangular_with_the_stated_diagonal(shape: str, upper: bool) -> None:
    transform, x = layer(shape, upper)
    matrix = square(transform, x)
    matrix = matrix.T if upper else matrix
    assert (matrix.triu(diagonal=1) == 0).all()
    assert (matrix.diagonal() > 0).all()
    assert (matrix.tril(diagonal=-1).abs() > 1e-12).sum() > len(matrix), "a diagonal matrix would prove nothing"
    by_time = matrix.diagonal().log().reshape(x.shape[-1], -1).sum(dim=1)
    torch.testing.assert_close(transform(x)[1][0], by_time, rtol=0, atol=1e-10)


@every_shape
def test_pair_sees_everything_and_both_log_dets_are_exact(shape: str) -> None:
    transform, x = Chain([layer(shape)[0], layer(shape, upper=True)[0]]), layer(shape)[1]
    for direction, tolerance in (("forward", 1e-10), ("inverse", 1e-7)):
        matrix = square(transform, x, direction)
        log_det = getattr(transform, direction)(x)[1].sum()
        torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix).logabsdet, rtol=0, atol=tolerance)
    assert (square(transform, x).abs() > 1e-12).sum() >= (x.numel() ** 2) / 2


@every_shape
@both_halves
def test_round_trip_and_residual(shape: str, upper: bool) -> None:
    transform, x = layer(shape, upper)
    assert_round_trip(transform, x)
    solution = transform.solve(transform(x)[0])
    assert 0.0 <= solution.residual <= 2e-12
    assert 2 <= solution.sweeps <= x.numel() + 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("features", [2, 11])
def test_shipped_depth_inverts(features: int, dtype: torch.dtype, tolerance: float) -> None:
    flow, x = mintnet(features, depth=8).to(dtype), 2.0 * torch.randn(30, features, 1, dtype=dtype)
    flow.initialize(x)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        z, log_det = flow.transform(x)
        back, log_det_back = flow.transform.inverse(z)
    assert (z - x).abs().max() > 0.1
    torch.testing.assert_close(back, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=10 * tolerance)


def steep() -> MintLayer:
    """One element that climbs by 277 just below 0, with a slope of 0.1 on either side: plain Newton steps never settle."""
    transform = MintLayer(1, 2)
    first, second, third = transform.convs
    with torch.no_grad():
        for conv in transform.convs:
            conv.bias.zero_()
            conv.raw_own.fill_(-40.0)
        first.raw_own[0, 1, 0] = second.raw_own[0, 0, 1] = 20.0  # level above 0, by the mirror image, then level far below
        third.raw_own[0, 0, 0] = 40.0
        transform.log_scale.fill_(math.log(0.1))
    return transform


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-3)])
def test_steep_element_is_solved_from_afar(dtype: torch.dtype, tolerance: float) -> None:
    transform = steep().to(dtype)
    x = torch.cat([torch.linspace(-50, 50, 41), torch.linspace(-0.1, 0.1, 41)]).to(dtype)[:, None, None]
    z, _ = transform(x)
    torch.testing.assert_close(transform.solve(z, tolerance).value, x, rtol=0, atol=10 * tolerance)


def test_gradient_through_the_solution_is_that_of_the_implicit_function() -> None:
    transform, z = Inverse(randomized(MintLayer(2, 2, 2, upper=True))), torch.randn(1, 2, 3, requires_grad=True)
    names = [name for name, _ in transform.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in transform.parameters()]

    def inverse(z: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(transform, dict(zip(names, values, strict=True)), (z,))

    options = {"fast_mode": True, "check_undefined_grad": False}  # fast: one random direction for all the weights
    assert torch.autograd.gradcheck(inverse, (z, *values), atol=1e-6, rtol=1e-4, **options)


def test_inverse_without_gradient_has_none() -> None:
    transform, z = layer("vector")
    with torch.no_grad():
        assert not transform.inverse(z)[0].requires_grad


def test_density_integrates_to_one() -> None:
    pair = Chain([randomized(MintLayer(2, 6, upper=upper), 0.5) for upper in (False, True)])
    assert_density_of_two_features_integrates_to_one(Flow(pair, Gaussian()))


@pytest.mark.parametrize("kernel_size", [1, 3])
@both_halves
def test_reach_is_what_the_jacobian_shows(kernel_size: int, upper: bool) -> None:
    transform, time = randomized(MintLayer(1, 6, kernel_size, upper)), 10
    forward, inverse = (square(transform, torch.randn(1, 1, time), direction) != 0 for direction in ("forward", "inverse"))
    reach = 3 * (kernel_size - 1)
    assert transform.context_of("forward") == ((0, reach) if upper else (reach, 0))
    assert transform.context == ((0, math.inf) if upper else (math.inf, 0))
    distance = torch.arange(time)[:, None] - torch.arange(time)
    distance = -distance if upper else distance
    assert torch.equal(forward, (distance >= 0) & (distance <= reach))
    assert kernel_size == 1 or inverse[distance > reach].any()


def test_one_graph_equals_eager() -> None:
    flow, x = mintnet(2, depth=1, hidden=4), torch.randn(6, 2, 1)
    assert_one_graph(flow.log_prob, x)


def test_untrained_flow_is_of_the_scale_of_the_base_and_learns_every_weight() -> None:
    flow, x = mintnet(5), torch.randn(200, 5, 1)
    assert (flow.log_prob(x) - flow.base_log_prob(x)).mean().abs() < 2.0 * 5  # nats; five features
    randomized(flow, 0.2).log_prob(x).mean().backward()
    idle = [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_log_det_is_float32_and_exact_under_autocast() -> None:
    transform, x = layer("vector")
    transform, x = transform.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = transform(x)
    assert log_det.dtype == torch.float32
    torch.testing.assert_close((z, log_det), transform(x))


def test_solver_that_runs_out_says_how_far_it_came() -> None:
    transform, z = layer("audio")
    with pytest.raises(NotConvergedError, match=r"residual of [\d.e-]+ after 2 sweeps.*raise `max_sweeps`"):
        transform.solve(z, max_sweeps=2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_noise_that_is_not_finite_is_refused(value: float) -> None:
    transform, z = layer("audio")
    z[..., 3] = value
    refused(lambda: transform.inverse(z), "`z` must be finite, got 1 of 9 values")


def test_borders() -> None:
    refused(lambda: MintLayer(2, 0), "`hidden` must be at least 1, got 0")
    for use in (layer("vector")[0], layer("vector")[0].solve):
        refused(partial(use, torch.randn(1, 3, 1)), r"must be \(B, 4, T\), got \(1, 3, 1\)")
