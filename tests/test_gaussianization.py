"""Gaussianization flow: exact in both tails against mpmath, invertible, and of use before it is trained."""

import math

import mpmath
import pytest
import torch
from flow_checks import (
    assert_density_of_two_features_integrates_to_one,
    assert_one_graph,
    assert_round_trip,
    assert_total_log_det_is_exact,
)
from helpers import randomized, refused
from torch import Tensor

from wavflow.distributions import Gaussian, Logistic
from wavflow.flows import Chain, Flow, Householder, MixtureCDF
from wavflow.flows.gaussianization import Gaussianization
from wavflow.flows.named import gaussianization

TAILS = torch.tensor([-6000.0, -900.0, -60.0, -6.0, -0.8, 0.0, 0.7, 5.0, 70.0, 900.0, 6000.0])  # |z| out to some 70


def components(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, locs and log_scales of one channel, (K,), in numbers that float32 holds."""
    values = (torch.randn(count), 2 * torch.randn(count), 0.5 * torch.randn(count))
    return tuple(value.float().double() for value in values)


def params_of(tau: MixtureCDF, dtype: torch.dtype, *values: Tensor) -> Tensor:
    return tau.params_of(*(value[None, None, None] for value in values)).to(dtype)


def exact(x: float, logits: Tensor, loc: Tensor, log_scale: Tensor) -> tuple[float, float]:
    """z and log |dz/dx|, to 60 digits."""
    with mpmath.workdps(60):
        weights = [mpmath.exp(v) for v in logits.tolist()]
        scales = [mpmath.exp(v) for v in log_scale.tolist()]
        u = [(mpmath.mpf(x) - m) / s for m, s in zip(loc.tolist(), scales, strict=True)]
        below = sum(w / (1 + mpmath.exp(-v)) for w, v in zip(weights, u, strict=True)) / sum(weights)
        above = sum(w / (1 + mpmath.exp(v)) for w, v in zip(weights, u, strict=True)) / sum(weights)
        density = sum(w / s / (2 + mpmath.exp(v) + mpmath.exp(-v)) for w, s, v in zip(weights, scales, u, strict=True))
        log_tail = mpmath.log(min(below, above))
        a = mpmath.sqrt(max(mpmath.mpf(0), -2 * (log_tail + mpmath.log(2))))
        for _ in range(12):
            tail = mpmath.erfc(a / mpmath.sqrt(2)) / 2
            a += (mpmath.log(tail) - log_tail) * tail / mpmath.npdf(a)
        z = a if above < below else -a
        return float(z), float(mpmath.log(density / sum(weights)) - mpmath.log(mpmath.npdf(z)))


@pytest.mark.parametrize("count", [1, 8, 32])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_value_and_log_slope_are_exact_in_both_tails(count: int, dtype: torch.dtype, tolerance: float) -> None:
    tau, values = MixtureCDF(Logistic, Gaussian(), count), components(count)
    params = params_of(tau, dtype, *values)
    mixture = tau.mixture(params)  # what float32 made of the parameters is what counts
    held = [p.flatten().double() for p in (mixture.log_weights, mixture.components.loc, mixture.components.log_scale)]
    z, log_slope = tau.forward(TAILS.to(dtype)[None, None], params)
    truth = torch.tensor([exact(x, *held) for x in TAILS.tolist()])
    assert z.dtype == log_slope.dtype == dtype
    assert z.abs().max() > 45.0
    assert (z.flatten().diff() > 0).all()
    torch.testing.assert_close(z.flatten().double(), truth[:, 0], rtol=tolerance, atol=tolerance)
    # The log-slope is a difference of two log-densities, each of the size of z^2 / 2.
    error = (log_slope.flatten().double() - truth[:, 1]).abs()
    assert (error <= tolerance * (1 + truth[:, 0].square() / 2)).all()


@pytest.mark.parametrize("count", [8, 16, 32])
def test_round_trip_in_float32_far_out(count: int) -> None:
    tau = MixtureCDF(Logistic, Gaussian(), count)
    params = params_of(tau, torch.float32, *components(count))
    z = torch.linspace(-40.0, 40.0, 801, dtype=torch.float32)[None, None]
    x, log_slope = tau.inverse(z, params)
    back, log_slope_back = tau.forward(x, params)
    assert (x.diff() > 0).all()
    torch.testing.assert_close(back, z, rtol=1e-5, atol=1e-5)
    assert ((log_slope + log_slope_back).abs() <= 1e-5 * (1 + z.square() / 2)).all()


@pytest.mark.parametrize("count", [1, 8, 32])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_in_float32_are_those_in_float64(count: int, direction: str) -> None:
    """Of the value, and of its log-slope together with the base's log-density: that sum is what training sees."""
    tau, values = MixtureCDF(Logistic, Gaussian(), count), components(count)
    points = TAILS if direction == "forward" else torch.tensor([-45.0, -30.0, -5.3, -1.0, 0.1, 2.0, 5.3, 30.0, 45.0])
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = points.to(dtype)[:, None, None].requires_grad_()
        params = params_of(tau, torch.float32, *values).to(dtype).expand(len(points), -1, -1).clone().requires_grad_()
        y, log_slope = getattr(tau, direction)(x, params)
        log_prob = Gaussian().log_prob(y) + log_slope if direction == "forward" else y
        gradients.append([*torch.autograd.grad(y.sum(), (x, params), retain_graph=True)])
        gradients[-1] += torch.autograd.grad(log_prob.sum(), (x, params))
    for true, single in zip(*gradients, strict=True):
        assert single.isfinite().all()
        assert true.abs().amax(dim=(1, 2)).min() > 0
        error = (single.double() - true).abs().amax(dim=(1, 2)) / true.abs().amax(dim=(1, 2))
        assert error.max() < 1e-3


def test_the_test_of_tails_notices_a_cdf_kept_as_a_number() -> None:
    class Saturated(MixtureCDF):
        def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            cdf = self.mixture(params).log_cdf(x).exp().clamp(1e-7, 1 - 1e-7)
            return math.sqrt(2) * torch.erfinv(2 * cdf - 1), torch.zeros_like(x)

    z, _ = Saturated(Logistic, Gaussian(), 8).forward(TAILS.float()[None, None], torch.zeros(1, 24, 1, dtype=torch.float32))
    assert z.abs().max() < 5.3


def test_components_come_back_from_their_parameters() -> None:
    tau = MixtureCDF(Logistic, Gaussian(), 5)
    logits, loc, log_scale = torch.randn(3, 2, 4, 6, 5)
    params = tau.params_of(logits, loc, log_scale)
    mixture = tau.mixture(params)
    assert params.shape == (2, tau.n_params * 4, 6)
    torch.testing.assert_close(mixture.log_weights, logits.log_softmax(dim=-1))
    torch.testing.assert_close(mixture.components.loc, loc)
    torch.testing.assert_close(mixture.components.log_scale, log_scale)


def test_scales_out_of_bounds_are_refused() -> None:
    zeros = torch.zeros(1, 1, 1, 2)
    with pytest.raises(ValueError, match=r"`log_scale` must lie within \+-9 nats, got values from 9.5 to 9.5: rescale"):
        MixtureCDF(Logistic, Gaussian(), 2).params_of(zeros, zeros, zeros + 9.5)


@pytest.mark.parametrize(("features", "time"), [(2, 1), (3, 2)])
def test_log_det_and_round_trip(features: int, time: int) -> None:
    flow, x = randomized(gaussianization(features, depth=3, n_components=4), 0.4), torch.randn(1, features, time)
    assert_total_log_det_is_exact(flow.transform, x)
    assert_round_trip(flow.transform, x)


class WrongSign(Gaussianization):
    """States the log-derivative of the other direction."""

    def forward(self, x: Tensor, cond: None = None) -> tuple[Tensor, Tensor]:
        z, log_det = super().forward(x)
        return z, -log_det


@pytest.mark.parametrize("wrong", [False, True])
def test_density_integrates_to_one(wrong: bool) -> None:
    layer = (WrongSign if wrong else Gaussianization)(2, 4)
    flow = randomized(Flow(Chain([Householder(2, 2), layer]), Gaussian()), 0.4)
    if not wrong:
        return assert_density_of_two_features_integrates_to_one(flow)
    with pytest.raises(AssertionError):
        assert_density_of_two_features_integrates_to_one(flow)
    with pytest.raises(AssertionError):
        assert_total_log_det_is_exact(flow.transform, torch.randn(1, 2, 1))


def two_moons(count: int) -> Tensor:
    angle, upper = math.pi * torch.rand(count), torch.rand(count) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], dim=1).unsqueeze(-1) + 0.1 * torch.randn(count, 2, 1)


def test_initialised_chain_gaussianises_untrained() -> None:
    flow, x, held_out = gaussianization(2, depth=8), two_moons(3000), two_moons(3000)
    flow.initialize(x)
    parts = list(flow.transform.transforms)
    scores = []
    for depth in (0, 1, 2, 4, 8):
        part = Flow(Chain(parts[: 1 + 2 * depth]), Gaussian())
        scores.append(part.log_prob(held_out).mean().item())
    assert scores == sorted(scores), "each step must come nearer"
    assert scores[0] < -2.0
    assert scores[-1] > scores[0] + 0.4


@pytest.mark.parametrize("count", [8, 32])
def test_initialised_layer_makes_each_marginal_gaussian(count: int) -> None:
    x = torch.stack([torch.rand(4000), 300.0 + 20.0 * torch.randn(4000).exp()], dim=1).unsqueeze(-1)
    layer = Gaussianization(2, count)
    layer.initialize(x)
    z, log_det = layer(x)
    assert (z.mean(dim=0).abs() < 0.1).all()
    assert ((z.std(dim=0) - 1).abs() < 0.2).all()  # the log-normal column is skewed
    assert (layer.tau.mixture(layer.params[None, :, None]).log_weights + math.log(count)).abs().max() < 1e-12
    before = Gaussian().log_prob((x - x.mean(0)) / x.std(0)).sum(dim=1) - x.std(0).log().sum(dim=0)
    assert (Gaussian().log_prob(z).sum(dim=1) + log_det).mean() > before.mean() + 0.2


def test_initialises_from_data_with_ties() -> None:
    x = torch.where(torch.rand(500, 1, 1) < 0.97, 0.0, torch.randn(500, 1, 1))  # nearly all quantiles are one value
    layer = Gaussianization(1, 8)
    layer.initialize(x)
    assert layer.params.isfinite().all()
    assert layer(x)[0].isfinite().all()


def test_data_beyond_the_bounds_of_the_scales_are_refused() -> None:
    refused(lambda: Gaussianization(1).initialize(1e6 * torch.randn(50, 1, 1)), "rescale the data")


def test_one_graph_equals_eager_and_every_weight_learns() -> None:
    flow, x = randomized(gaussianization(2, depth=1, n_components=3, n_reflections=1), 0.4), torch.randn(6, 2, 1)
    assert_one_graph(flow.log_prob, x)
    flow.log_prob(x).mean().backward()
    assert [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.any()] == []
