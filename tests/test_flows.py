"""Flows: each log-determinant against autograd, inverses, densities that integrate to 1, the composed student, the solver."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from flow_checks import WrongSign, assert_round_trip
from helpers import assert_log_det_is_exact, random_log_mel, randomized, refused, tiny_mel
from torch import Tensor, nn

from wavflow.distributions import Distribution, Gaussian, Logistic
from wavflow.flows import (
    Affine,
    Autoregressive,
    Bijection,
    Chain,
    Flow,
    Inverse,
    Inverted,
    LinearPrediction,
    MixtureCDF,
    NotConvergedError,
    Shift,
    Transform,
    fixed_point,
)
from wavflow.flows.autoregressive import shift_right
from wavflow.nn import WaveNet

TAUS: dict[str, Callable[[], Bijection]] = {
    "shift": Shift,
    "affine": Affine,
    "tightly bounded affine": lambda: Affine(bound=0.4),
    "inverted affine": lambda: Inverted(Affine()),
    "mixture of gaussians": lambda: MixtureCDF(Gaussian, Gaussian(), 3),
    "mixture of gaussians to logistic": lambda: MixtureCDF(Gaussian, Logistic(), 3),
    "mixture of logistics": lambda: MixtureCDF(Logistic, Logistic(), 3),
    "mixture of logistics to gaussian": lambda: MixtureCDF(Logistic, Gaussian(), 3),
    "inverted mixture": lambda: Inverted(MixtureCDF(Logistic, Logistic(), 2)),
}


def autoregressive(tau: Bijection, channels: int = 1) -> Autoregressive:
    net = WaveNet(channels, tau.n_params * channels, layers=3, channels=6, kernel_size=2, dilation_cycle=2, cond_channels=3)
    return randomized(Autoregressive(tau, net))


def iaf() -> Inverse:
    return Inverse(autoregressive(Inverted(Affine())))


COMPOSED: dict[str, Callable[[], Transform]] = {
    "inverse": iaf,
    "inverse of a mixture": lambda: Inverse(autoregressive(MixtureCDF(Gaussian, Gaussian(), 3))),
    "chain": lambda: Chain([iaf(), autoregressive(Affine()), iaf()]),
    "inverse chain": lambda: Inverse(Chain([iaf(), autoregressive(MixtureCDF(Logistic, Gaussian(), 2))])),
}
TRANSFORMS = {name: lambda tau=tau: autoregressive(tau()) for name, tau in TAUS.items()} | COMPOSED
every_transform = pytest.mark.parametrize("name", [*TRANSFORMS, "linear prediction"])


def build(name: str, channels: int = 1, time: int = 12) -> tuple[Transform, Any, Tensor]:
    """A transform of that name with random parameters, something to condition it on, and data (1, C, T)."""
    if name == "linear prediction":
        mel = random_log_mel(2)
        transform = LinearPrediction(tiny_mel(), order=6)
        return transform, mel, 0.1 * torch.randn(1, 1, 32)
    transform = autoregressive(TAUS[name](), channels) if name in TAUS else COMPOSED[name]()
    return transform, torch.randn(1, 3, time), torch.randn(1, channels, time)


@every_transform
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_det_is_that_of_the_autograd_jacobian(name: str, direction: str) -> None:
    transform, cond, x = build(name)
    assert_log_det_is_exact(lambda x: getattr(transform, direction)(x, cond), x)


@pytest.mark.parametrize("name", TAUS)
def test_log_det_of_two_channels(name: str) -> None:
    transform, cond, x = build(name, channels=2, time=6)
    assert_log_det_is_exact(lambda x: transform(x, cond), x)


@every_transform
def test_round_trip(name: str) -> None:
    transform, cond, x = build(name)
    assert_round_trip(transform, x, cond)


class Unshifted(Autoregressive):
    """Its parameters see the sample that they act on."""

    def params(self, x: Tensor, cond: Any = None) -> Tensor:
        return self.conditioner(x, cond)


class Anticausal(Autoregressive):
    """Its parameters see the next sample, too."""

    def params(self, x: Tensor, cond: Any = None) -> Tensor:
        return self.conditioner(torch.nn.functional.pad(x, (-1, 1)), cond)


def wrong_sign() -> Autoregressive:
    return autoregressive(WrongSign())


def unshifted() -> Autoregressive:
    return Unshifted(Affine(), autoregressive(Affine()).conditioner)


def anticausal() -> Autoregressive:
    return Anticausal(Affine(), autoregressive(Affine()).conditioner)


@pytest.mark.parametrize("faulty", [wrong_sign, unshifted, anticausal])
def test_the_jacobian_test_notices(faulty: Callable[[], Autoregressive]) -> None:
    transform, cond = faulty(), torch.randn(1, 3, 12)
    with pytest.raises(AssertionError):
        assert_log_det_is_exact(lambda x: transform(x, cond), torch.randn(1, 1, 12))


@pytest.mark.parametrize("base", [Gaussian(), Logistic()], ids=["gaussian", "logistic"])
@pytest.mark.parametrize("name", ["affine", "mixture of logistics", "inverse", "chain"])
def test_density_of_a_sample_is_its_score(name: str, base: Distribution) -> None:
    transform, cond, z = build(name)
    flow = Flow(transform, base)
    x, log_prob, log_det = flow.sample_and_log_prob(z, cond)
    torch.testing.assert_close(x, flow.sample(z, cond))
    torch.testing.assert_close(log_prob, flow.log_prob(x, cond), rtol=0, atol=1e-8)
    torch.testing.assert_close(log_prob, base.log_prob(z).squeeze(1) - log_det)


def test_noise_obeys_temperature_and_generator() -> None:
    flow = Flow(Chain([]), Logistic())
    noise = [flow.noise((50_000,), t, torch.Generator().manual_seed(1)) for t in (1.0, 1.0, 0.5)]
    assert torch.equal(noise[0], noise[1])
    torch.testing.assert_close(noise[2], 0.5 * noise[0])
    assert abs(noise[0].std().item() - math.pi / math.sqrt(3)) < 0.03
    assert flow.noise((2, 3), like=torch.zeros(1, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("name", TAUS)
def test_parallel_solution_is_the_stepwise_inverse(name: str) -> None:
    transform, cond, z = build(name, time=24)
    solution = transform.solve(z, cond, tolerance=1e-12)
    torch.testing.assert_close(solution.value, transform.inverse(z, cond)[0], rtol=0, atol=1e-9)
    assert solution.residual <= 1e-12
    assert 2 <= solution.sweeps <= 25


def test_solver_that_runs_out_says_how_far_it_came() -> None:
    transform, cond, z = build("affine", time=24)
    with pytest.raises(NotConvergedError, match=r"residual of [\d.e-]+ after 2 sweeps \(`tolerance` 1e-10\).*raise"):
        transform.solve(z, cond, tolerance=1e-10, max_sweeps=2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_solver_never_returns_what_is_not_finite(value: float) -> None:
    transform, cond, z = build("affine")
    z[..., 5] = value
    with pytest.raises(NotConvergedError):
        transform.solve(z, cond)


class Explosive(nn.Module):
    """loc[t] = -800 - exp(x[t]), its causal mask applied by multiplication: one inf would make every time step NaN."""

    def forward(self, x: Tensor, cond: Any = None) -> Tensor:
        return -800.0 - torch.exp(x @ torch.eye(x.shape[-1]))


def test_solver_survives_overflow_on_the_way() -> None:
    transform, z = Autoregressive(Shift(), Explosive()), torch.full((1, 1, 10), 801.0)
    solution = transform.solve(z)
    torch.testing.assert_close(solution.value, torch.zeros(1, 1, 10), rtol=0, atol=1e-9)  # exp(801) on the first sweep
    assert solution.sweeps <= 11


def test_solver_stops_early_where_the_past_hardly_matters() -> None:
    solution = fixed_point(lambda x: 1.0 + 1e-3 * shift_right(x), torch.zeros(1, 1, 1000), tolerance=1e-9)
    residuals = [x - 1e-3 * previous for previous, x in pairwise(solution.value[0, 0])]
    torch.testing.assert_close(torch.stack(residuals), torch.ones(999), rtol=0, atol=1e-8)
    assert solution.sweeps < 10


@pytest.mark.parametrize("tau", [Affine(), Inverted(Affine())], ids=["affine", "inverted"])
def test_affine_log_scale_is_bounded_and_keeps_a_gradient(tau: Bijection) -> None:
    raw = torch.tensor([-60.0, -20.0, 0.0, 20.0, 60.0])
    params = torch.stack([torch.zeros(5), raw]).unsqueeze(0).requires_grad_()
    _, log_slope = tau.forward(torch.zeros(1, 1, 5), params)
    (gradient,) = torch.autograd.grad(log_slope.sum(), params)
    assert log_slope.abs().max() <= 9.0
    assert (gradient[0, 1] != 0).all(), "a hard clamp has no gradient where it is needed"
    assert gradient[0, 1, 2].abs() == 1.0


def test_mixture_needs_a_component() -> None:
    refused(lambda: MixtureCDF(Gaussian, Gaussian(), 0), "`n_components` must be at least 1, got 0")
