"""Densities: normalization, oracles, both tails in float32, gradients, inverse."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import refused
from torch import Tensor

from wavflow.distributions import Discretized, Distribution, Gaussian, Logistic, Mixture, gaussian_kl

FAMILIES = {"gaussian": Gaussian, "logistic": Logistic}
KINDS = ["gaussian", "logistic", "mixture of gaussian", "mixture of logistic"]


def parameters(kind: str, *shape: int, log_scale: float = -1.0) -> tuple[Tensor, ...]:
    """Random (loc, log_scale) or (logits, loc, log_scale), with 4 components, about +-0.3 and `log_scale`."""
    count, tail = (3, (4,)) if "mixture" in kind else (2, ())
    values = torch.randn(count, *shape, *tail)
    values[-2] *= 0.3
    values[-1] = log_scale + 0.3 * values[-1]
    return tuple(values)


def build(kind: str, *values: Tensor) -> Distribution:
    family = FAMILIES[kind.split()[-1]]
    return Mixture(family, *values) if "mixture" in kind else family(*values)


def random(kind: str, *shape: int, log_scale: float = -1.0) -> Distribution:
    return build(kind, *parameters(kind, *shape, log_scale=log_scale))


def logs_of_cdf(z: Tensor) -> tuple[Tensor, Tensor]:
    return Gaussian().log_cdf(z), Gaussian().log_sf(z)


def assert_integrates_to_one(distribution: Distribution) -> None:
    grid = torch.linspace(-60, 60, 120_001)
    mass = torch.trapezoid(distribution.log_prob(grid).exp(), grid)
    torch.testing.assert_close(mass, torch.tensor(1.0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("log_scale", [-3.0, 0.0])
def test_density_integrates_to_one(kind: str, log_scale: float) -> None:
    assert_integrates_to_one(random(kind, log_scale=log_scale))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("method", ["log_prob", "log_cdf", "log_sf"])
def test_agrees_with_scipy_in_both_tails(family: type, method: str) -> None:
    oracle = {Gaussian: scipy.stats.norm, Logistic: scipy.stats.logistic}[family](0.3, math.exp(-1.2))
    x = torch.linspace(-9, 9, 301)
    expected = getattr(oracle, {"log_prob": "logpdf", "log_cdf": "logcdf", "log_sf": "logsf"}[method])(x.numpy())
    distribution = family(torch.tensor(0.3), torch.tensor(-1.2))
    torch.testing.assert_close(getattr(distribution, method)(x), torch.as_tensor(expected), rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(distribution.entropy(), torch.as_tensor(oracle.entropy()), rtol=1e-12, atol=0)


def test_mixture_agrees_with_torch() -> None:
    logits, loc, log_scale = parameters("mixture of gaussian", 7)
    categorical = torch.distributions.Categorical(logits=logits)
    oracle = torch.distributions.MixtureSameFamily(categorical, torch.distributions.Normal(loc, log_scale.exp()))
    x, mixture = torch.randn(5, 7), Mixture(Gaussian, logits, loc, log_scale)
    torch.testing.assert_close(mixture.log_prob(x), oracle.log_prob(x))
    torch.testing.assert_close(mixture.log_cdf(x).exp(), oracle.cdf(x))
    torch.testing.assert_close(mixture.log_sf(x).exp(), 1 - oracle.cdf(x))


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_the_slope_of_the_cdf(kind: str) -> None:
    distribution, x = random(kind, 41), torch.linspace(-12, 12, 41, requires_grad=True)
    log_prob = distribution.log_prob(x)
    for log_tail, sign in ((distribution.log_cdf(x), 1), (distribution.log_sf(x), -1)):
        (slope,) = torch.autograd.grad(log_tail.sum(), x)
        torch.testing.assert_close(slope, sign * torch.exp(log_prob - log_tail), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("kind", KINDS)
def test_gain_rule(kind: str) -> None:
    values, x, gain = parameters(kind, 9), torch.randn(9), 2.7
    louder = (*values[:-2], values[-2] * gain, values[-1] + math.log(gain))
    expected = build(kind, *values).log_prob(x) - math.log(gain)
    torch.testing.assert_close(build(kind, *louder).log_prob(gain * x), expected)


def test_gaussian_cdf_keeps_value_and_gradient_in_float32() -> None:
    z = torch.tensor([-1e6, -1e4, -1e3, -100, -30, -14, -5, -1, 0, 1, 5, 12, 30, 1e4], dtype=torch.float32)
    z.requires_grad_()
    log_cdf = Gaussian().log_cdf(z)
    (slope,) = torch.autograd.grad(log_cdf.sum(), z)
    exact = z.detach().double()
    expected = math.sqrt(2 / math.pi) / torch.special.erfcx(-exact / math.sqrt(2))
    torch.testing.assert_close(log_cdf.double(), torch.special.log_ndtr(exact), rtol=1e-6, atol=1e-37)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
def test_gaussian_quantile_inverts_far_out_without_jumps(dtype: torch.dtype, tolerance: float) -> None:
    z = torch.linspace(-30, 30, 6001, dtype=dtype)
    roundtrip = Gaussian().quantile(*logs_of_cdf(z))
    assert roundtrip.dtype == dtype
    torch.testing.assert_close(roundtrip, z, rtol=tolerance, atol=tolerance)
    assert (roundtrip.diff() > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_quantile_inverts_both_tails(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    distribution = build(kind, *(value.to(dtype) for value in parameters(kind)))
    x = torch.linspace(-9, 9, 301, dtype=dtype)  # out to some 30 scales
    roundtrip = distribution.quantile(distribution.log_cdf(x), distribution.log_sf(x))
    torch.testing.assert_close(roundtrip, x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mixture_quantile_solves_separate_modes_of_unlike_scale(family: type, dtype: torch.dtype) -> None:
    logits, loc = 3 * torch.randn(2000, 5), torch.randn(2000, 5) * torch.empty(2000, 1).uniform_(-5, 2).exp()
    mixture = Mixture(family, *(p.to(dtype) for p in (logits, loc, torch.empty(2000, 5).uniform_(-9, 1))))
    log_cdf, log_sf = logs_of_cdf(torch.empty(2000).uniform_(-30, 30).to(dtype))
    x = mixture.quantile(log_cdf, log_sf)
    logit, target = mixture.log_cdf(x) - mixture.log_sf(x), log_cdf - log_sf
    # x itself is known to one rounding only, which the slope of the logit magnifies.
    slope = torch.exp(mixture.log_prob(x) - mixture.log_cdf(x) - mixture.log_sf(x))
    reach = x.abs() + loc.abs().amax(dim=-1)
    assert ((logit - target).abs() <= 20 * torch.finfo(dtype).eps * (1 + target.abs() + slope * reach)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_quantile_gradient_is_that_of_the_implicit_function(kind: str) -> None:
    values = [value.requires_grad_() for value in parameters(kind, 7)]
    z = torch.tensor([-25.0, -6.0, -1.0, 0.0, 0.3, 5.3, 25.0], requires_grad=True)  # 0: the two tails change places

    def quantile(z: Tensor, *values: Tensor) -> Tensor:
        return build(kind, *values).quantile(*logs_of_cdf(z))

    assert torch.autograd.gradcheck(quantile, (z, *values), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e5])  # at 1e5, neighboring float32 numbers are some 64 scales apart
def test_quantile_between_far_modes_stays_finite(spread: float) -> None:
    z, loc = torch.randn(2000).float(), (spread * torch.randn(2000, 5)).float().requires_grad_()
    x = Mixture(Gaussian, torch.randn(2000, 5).float(), loc, torch.full_like(loc, -9.0)).quantile(*logs_of_cdf(z))
    (gradient,) = torch.autograd.grad(x.sum(), loc)
    assert x.isfinite().all()
    assert gradient.isfinite().all()


def test_quantile_gradient_in_float32() -> None:
    z = torch.tensor([-30.0, -5.3, 0.0, 5.3, 30.0], dtype=torch.float32, requires_grad=True)
    (slope,) = torch.autograd.grad(Gaussian().quantile(*logs_of_cdf(z)).sum(), z)
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "log_scale"), [(16, -9.0), (16, -4.0), (16, 0.5), (8, -7.0), (3, -1.0)])
def test_bins_sum_to_one(kind: str, bits: int, log_scale: float) -> None:
    centers = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) / 2 ** (bits - 1)
    total = Discretized(random(kind, log_scale=log_scale), bits).log_prob(centers).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "log_scale"), [(10, -9.0), (10, -5.0), (10, -2.0), (16, -3.0), (16, 0.5), (20, 0.5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_bin_is_the_integral_of_the_density(
    kind: str, bits: int, log_scale: float, dtype: torch.dtype, tolerance: float
) -> None:
    values = parameters(kind, log_scale=log_scale)
    loc = values[-2].flatten()[0]
    offsets = torch.tensor([0.0, 0.3, -3.0, 12.0, -30.0]) * math.exp(log_scale)
    x = torch.round((loc + offsets).clamp(-0.98, 0.98) * 2 ** (bits - 1)) / 2 ** (bits - 1)
    nodes, weights = map(torch.as_tensor, np.polynomial.legendre.leggauss(300))  # on (-1, 1): half a bin either side
    log_density = build(kind, *values).log_prob(x[:, None] + nodes * 2.0**-bits)
    expected = torch.logsumexp(log_density + weights.log(), dim=-1) - bits * math.log(2)
    actual = Discretized(build(kind, *(v.to(dtype) for v in values)), bits).log_prob(x.to(dtype))
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", [15.0, 50.0, 1000.0])
@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("log_scale", [-14.0, -9.0, -7.0, 3.0])  # bins of 37, 0.25, 0.03 and 1.5e-6 scales
def test_discretized_gradient_survives_in_float32(kind: str, scales: float, side: int, log_scale: float) -> None:
    scale = math.exp(log_scale)
    x, bin_width = torch.tensor(0.25, dtype=torch.float32), 2.0**-15
    loc = torch.full((4,) if "mixture" in kind else (), 0.25 - side * scales * scale, dtype=torch.float32)
    loc.requires_grad_()
    values = (torch.zeros(4), loc) if "mixture" in kind else (loc,)
    distribution = build(kind, *values, torch.full_like(loc, log_scale).detach())
    (gradient,) = torch.autograd.grad(Discretized(distribution).log_prob(x), loc)
    # The bin's mass sits at the edge that is nearer to loc, within a scale of it.
    nearest = max(scales - 0.5 * bin_width / scale, 0.0)
    low, high = (nearest, scales + 1 / max(nearest, 1)) if "gaussian" in kind else (0.999, 1.001)
    if "logistic" in kind and bin_width / scale > scales:
        low, high = 0.0, 1.0  # loc lies inside the bin: nothing to gain
    assert low * 0.99 - 1e-3 <= side * gradient.sum().item() * scale <= high * 1.01 + 1e-3


def test_discretized_samples_are_bins_with_the_stated_frequencies() -> None:
    discretized = Discretized(random("mixture of logistic"), bits=2)
    samples, centers = discretized.sample((40_000,)), torch.tensor([-1.0, -0.5, 0.0, 0.5])
    counts = torch.stack([(samples == center).sum() for center in centers])
    assert counts.sum() == 40_000
    expected = 40_000 * discretized.log_prob(centers).exp()
    assert scipy.stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_discretized_clips_to_the_last_bin() -> None:
    discretized = Discretized(random("gaussian"))
    x, inside = torch.tensor([-1.5, 1.0, 7.0]), torch.tensor([-1.0, 1 - 2**-15, 1 - 2**-15])
    torch.testing.assert_close(discretized.log_prob(x), discretized.log_prob(inside), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_cdf(kind: str) -> None:
    distribution = random(kind, log_scale=-3.0)  # modes apart: a wrong weight shows
    samples = distribution.sample((20_000,))
    assert scipy.stats.kstest(distribution.log_cdf(samples).exp().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_shape_and_seed(kind: str) -> None:
    distribution = random(kind, 2, 3)
    first, second = (distribution.sample((5,), torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (5, 2, 3)
    assert torch.equal(first, second)
    assert not torch.equal(first, distribution.sample((5,), torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_rsample_differentiates_loc_and_scale(family: type) -> None:
    loc, log_scale = (value.requires_grad_() for value in parameters(family.__name__.lower(), 6))
    draw = family(loc, log_scale).rsample((1,))[0]
    to_loc, to_log_scale = torch.autograd.grad(draw.sum(), (loc, log_scale))
    torch.testing.assert_close(to_loc, torch.ones(6))
    torch.testing.assert_close(to_log_scale, (draw - loc).detach())
    assert not family(loc, log_scale).sample().requires_grad


def test_logistic_noise_reaches_both_tails_in_float32() -> None:
    noise = Logistic.standard_noise((1_000_000,), dtype=torch.float32)
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()
    assert noise.min() < -11
    assert noise.max() > 11


def test_gaussian_kl_agrees_with_torch() -> None:
    q, p = random("gaussian", 50), random("gaussian", 50)
    oracle = [torch.distributions.Normal(d.loc, d.log_scale.exp()) for d in (q, p)]
    torch.testing.assert_close(gaussian_kl(q, p), torch.distributions.kl_divergence(*oracle))
    assert (gaussian_kl(q, q) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(kind: str) -> None:
    values, x = [value.bfloat16() for value in parameters(kind, 5)], torch.randn(5).bfloat16()
    expected = build(kind, *(value.float() for value in values)).log_prob(x.float())
    torch.testing.assert_close(build(kind, *values).log_prob(x), expected, rtol=0, atol=0)


def test_mixture_refuses_parameters_with_other_components() -> None:
    refused(lambda: Mixture(Gaussian, torch.zeros(3, 4), torch.zeros(3, 5), torch.zeros(3, 5)), "same number of components")


@pytest.mark.parametrize("bits", [0, 25])
def test_discretized_refuses_bits(bits: int) -> None:
    refused(lambda: Discretized(Gaussian(), bits), f"`bits` must be from 1 to 24.*got {bits}")


def test_entropy_of_a_mixture_says_what_to_do() -> None:
    refused(lambda: random("mixture of gaussian").entropy(), "average -log_prob", NotImplementedError)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "mixture of logistic"])  # every function of the four is in one of these
def test_compiles_as_one_graph(kind: str) -> None:
    def everything(x: Tensor, *values: Tensor) -> Tensor:
        distribution = build(kind, *values)
        inverse = distribution.quantile(*logs_of_cdf(x))
        return distribution.log_prob(x) + distribution.log_sf(x) + Discretized(distribution).log_prob(x) + inverse

    inputs = [torch.randn(6), *parameters(kind, 6)]
    gradients: list[tuple[Tensor, ...]] = []
    run: Callable[..., Tensor]
    for run in (everything, torch.compile(everything, fullgraph=True, backend="aot_eager")):
        leaves = [value.clone().requires_grad_() for value in inputs]
        value = run(*leaves)
        gradients.append((value.detach(), *torch.autograd.grad(value.sum(), leaves)))
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager)
