"""Couplings and static maps: exact log-derivatives, halves, ActNorm's start; and the inverse-CDF trick."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from flow_checks import assert_round_trip
from helpers import assert_log_det_is_exact, randomized, refused
from torch import nn

from wavflow.distributions import Distribution, Gaussian, Logistic, Mixture, inverse_cdf
from wavflow.flows import ActNorm, Affine, Bijection, Chain, Coupling, Folded, Inverse, Inverted, MixtureCDF, Shift, Static
from wavflow.nn import MLP, WaveNet

TAUS: dict[str, Bijection] = {
    "shift": Shift(),
    "affine": Affine(),
    "inverted affine": Inverted(Affine(bound=0.5)),
    "mixture": MixtureCDF(Logistic, Gaussian(), 3),
}


def coupling(tau: Bijection, channels: int = 5, swap: bool = False, cond_channels: int = 2) -> Coupling:
    kept, changed = Coupling.halves(channels, swap)
    net = MLP(kept, tau.n_params * changed, (8, 8), cond_channels)
    return randomized(Coupling(tau, net, channels, swap), 0.5)


@pytest.mark.parametrize("tau", TAUS.values(), ids=TAUS)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("channels", "time"), [(2, 1), (5, 1), (3, 4)])
def test_coupling_is_exact_both_ways(tau: Bijection, swap: bool, channels: int, time: int) -> None:
    transform, cond, x = coupling(tau, channels, swap), torch.randn(1, 2, time), torch.randn(1, channels, time)
    for direction in (transform, transform.inverse):
        assert_log_det_is_exact(lambda x, direction=direction: direction(x, cond), x)
    assert_round_trip(transform, x, cond, least=1e-3)


@pytest.mark.parametrize("tau", TAUS.values(), ids=TAUS)
@pytest.mark.parametrize("time", [1, 3])
def test_static_map_is_exact_both_ways(tau: Bijection, time: int) -> None:
    transform, x = randomized(Static(tau, 3), 0.7), torch.randn(1, 3, time)
    for direction in (transform, transform.inverse):
        assert_log_det_is_exact(direction, x)
    assert_round_trip(transform, x)


def test_static_map_treats_every_time_and_item_alike_and_every_channel_by_itself() -> None:
    transform = randomized(Static(Affine(), 2))
    z, log_det = transform(torch.tensor([1.0, 2.0]).view(1, 2, 1).expand(3, 2, 4))
    assert (z == z[:1, :, :1]).all()
    loc, log_scale = transform.params.view(2, 2)
    torch.testing.assert_close(z[0, :, 0], (torch.tensor([1.0, 2.0]) - loc) * torch.exp(-9 * torch.tanh(log_scale / 9)))
    assert log_det.shape == (3, 4)


@pytest.mark.parametrize(("swap", "kept", "changed"), [(False, [0, 1, 2], [3, 4]), (True, [3, 4], [0, 1, 2])])
def test_one_half_is_kept_and_conditions_the_other(swap: bool, kept: list[int], changed: list[int]) -> None:
    transform, cond, x = coupling(Affine(), swap=swap), torch.randn(1, 2, 1), torch.randn(1, 5, 1)
    z = transform(x, cond)[0]
    matrix = torch.autograd.functional.jacobian(lambda x: transform(x, cond)[0], x).reshape(5, 5)
    assert torch.equal(z[:, kept], x[:, kept])
    assert (matrix[changed][:, kept] != 0).all()
    assert torch.equal(matrix[changed][:, changed], matrix[changed][:, changed].diagonal().diag())


def test_coupling_reaches_as_far_as_its_net() -> None:
    net = WaveNet(2, 4, layers=3, channels=4, kernel_size=3, dilation_cycle=3, causal=False)
    transform = randomized(Coupling(Affine(), net, 4))
    z = torch.randn(1, 4, 40)
    with torch.no_grad():
        moved = transform.inverse(z + 0.1 * (torch.arange(40) == 20))[0] - transform.inverse(z)[0]
    changed = (moved.abs().amax(dim=(0, 1)) > 0).nonzero().flatten().tolist()
    before, after = transform.context
    assert (changed[-1] - 20, 20 - changed[0]) == (before, after) == (7, 7)
    assert Chain([transform, Inverse(transform)]).context == (14, 14)
    assert coupling(Affine()).context == (0, 0)


def test_actnorm_starts_from_the_data_once() -> None:
    transform = ActNorm(3)
    batch = torch.randn(50, 3, 4) * torch.tensor([1e-6, 1.0, 1e5]).view(3, 1) + torch.tensor([1.0, -3.0, 1e6]).view(3, 1)
    untrained = transform(batch)
    transform.initialize(batch)
    z, log_det = transform(batch)
    weights = transform.params.clone()
    transform.initialize(5 * batch)
    assert torch.equal(untrained[0], batch)
    torch.testing.assert_close(z.mean(dim=(0, 2)), torch.zeros(3), rtol=0, atol=1e-8)
    torch.testing.assert_close(z.std(dim=(0, 2), correction=0), torch.ones(3))
    torch.testing.assert_close(log_det[0, 0], -batch.std(dim=(0, 2), correction=0).log().sum())
    assert torch.equal(transform.params, weights), "a resumed run must not start again"


def test_a_resumed_actnorm_knows_that_it_has_started() -> None:
    first, second = ActNorm(2), ActNorm(2)
    first.initialize(torch.randn(9, 2, 1))
    second.load_state_dict(first.state_dict())
    second.initialize(100 * torch.randn(9, 2, 1))
    assert torch.equal(second.params, first.params)


def test_each_transform_of_a_chain_starts_from_what_the_one_before_makes() -> None:
    chain = Chain([ActNorm(2), coupling(Affine(), 2, cond_channels=0), Folded(ActNorm(4), 2), ActNorm(2)])
    batch = 30 + 7 * torch.randn(20, 2, 6)
    chain.initialize(batch)
    z, _ = Chain(list(chain.transforms)[:-1])(batch)
    folded = torch.cat([z[..., ::2], z[..., 1::2]], dim=1)
    torch.testing.assert_close(folded.mean(dim=(0, 2)), torch.zeros(4), rtol=0, atol=1e-10)
    torch.testing.assert_close(folded.std(dim=(0, 2), correction=0), torch.ones(4))
    assert all(p.grad_fn is None for p in chain.parameters())


@pytest.mark.parametrize(
    ("value", "fault"), [(3.0, "of 20 values each, those of channel 1, 2 are constant"), (math.nan, "channel 1, 2 are not fin")]
)
def test_actnorm_names_the_channels_that_it_cannot_start_from(value: float, fault: str) -> None:
    batch = torch.randn(20, 4, 1)
    batch[:, 1:3] = value
    transform = ActNorm(4)
    refused(lambda: transform.initialize(batch), fault)
    assert not transform.initialized


def test_wrong_shapes_are_named() -> None:
    refused(lambda: Coupling(Affine(), nn.Identity(), 1), "`channels` of a coupling must be at least 2, got 1: fold")
    for transform in (coupling(Affine()), ActNorm(5)):
        for direction in (transform, transform.inverse):
            refused(partial(direction, torch.randn(2, 4, 1)), r"`x` must be \(B, 5, T\), got \(2, 4, 1\)")
    for cond, got in ((None, "none"), (torch.randn(2, 2, 3), r"\(2, 2, 3\)"), (torch.randn(2, 3, 1), r"\(2, 3, 1\)")):
        refused(partial(coupling(Affine()), torch.randn(2, 5, 1), cond), rf"`cond` must be \(2, 2, 1\).* got {got}")


@pytest.mark.parametrize(
    "build",
    [
        lambda: Gaussian(1.0, 0.5),
        lambda: Logistic(-1.0, -1.0),
        lambda: Mixture(Logistic, torch.zeros(2), torch.tensor([-2.0, 3.0]), torch.zeros(2)),
    ],
    ids=["gaussian", "logistic", "mixture"],
)
def test_inverse_cdf_turns_uniform_numbers_into_the_distribution(build: Callable[[], Distribution]) -> None:
    distribution = build()
    u = torch.cat([torch.tensor([1e-12, 0.5, 1 - 1e-12]), torch.rand(200)]).requires_grad_()
    x = inverse_cdf(distribution, u)
    (gradient,) = torch.autograd.grad(x.sum(), u)
    torch.testing.assert_close(torch.exp(distribution.log_cdf(x)), u, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(gradient[1:], torch.exp(-distribution.log_prob(x))[1:], rtol=1e-4, atol=0)
    assert abs(x[3:].mean().item() - distribution.sample((100_000,)).mean().item()) < 0.5


@pytest.mark.parametrize("u", [0.0, 1.0, -0.1, math.nan])
def test_inverse_cdf_wants_probabilities(u: float) -> None:
    refused(lambda: inverse_cdf(Gaussian(), torch.tensor([0.5, u])), "`u` must lie strictly between 0 and 1")
