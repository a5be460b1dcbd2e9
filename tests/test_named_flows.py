"""The named flows of vectors: exact, normalized, one graph, and what each one promises."""

import shutil
from collections.abc import Callable
from functools import partial

import pytest
import torch
from flow_checks import (
    WrongSign,
    assert_density_of_two_features_integrates_to_one,
    assert_one_graph,
    assert_round_trip,
    assert_total_log_det_is_exact,
)
from helpers import randomized, refused

from wavflow.distributions import Gaussian
from wavflow.flows import ActNorm, Affine, Chain, Coupling, Flow, Static
from wavflow.flows.named import glow, iaf, maf, nice, real_nvp
from wavflow.nn import MLP

NAMED: dict[str, Callable[..., Flow]] = {
    "nice": nice,
    "nice, logistic": lambda features, **options: nice(features, base="logistic", **options),
    "real-nvp": real_nvp,
    "glow": glow,
    "made": lambda features, **options: maf(features, **options | {"depth": 1}),
    "maf": maf,
    "maf, mixture of gaussians": lambda features, **options: maf(features, density="mixture_of_gaussians", **options),
    "maf, mixture of logistics": lambda features, **options: maf(features, density="mixture_of_logistics", **options),
    "iaf": iaf,
}
every_flow = pytest.mark.parametrize("name", NAMED)


def build(name: str, features: int, std: float = 0.4, cond_channels: int = 0) -> Flow:
    return randomized(NAMED[name](features, depth=3, hidden=(8, 8), cond_channels=cond_channels), std)


@every_flow
@pytest.mark.parametrize(("features", "time"), [(2, 1), (5, 1), (3, 2)])
def test_log_det_and_round_trip(name: str, features: int, time: int) -> None:
    flow, x, cond = build(name, features, cond_channels=2), torch.randn(1, features, time), torch.randn(1, 2, time)
    assert_total_log_det_is_exact(flow.transform, x, cond)
    assert_round_trip(flow.transform, x, cond)


@every_flow
@pytest.mark.parametrize("cond_channels", [0, 1])
def test_density_integrates_to_one(name: str, cond_channels: int) -> None:
    cond = torch.randn(1, 1, 1) if cond_channels else None
    assert_density_of_two_features_integrates_to_one(build(name, 2, 0.25, cond_channels), cond)


@pytest.mark.parametrize(
    "check",
    [
        lambda flow: assert_total_log_det_is_exact(flow.transform, torch.randn(1, 2, 1)),
        assert_density_of_two_features_integrates_to_one,
    ],
)
@pytest.mark.parametrize("part", ["coupling", "static"])
def test_the_tests_notice_a_wrong_sign(check: Callable[[Flow], None], part: str) -> None:
    wrong = Static(WrongSign(), 2) if part == "static" else Coupling(WrongSign(), MLP(1, 2, (8,)), 2)
    flow = Flow(randomized(Chain([Static(Affine(), 2), wrong]), 0.4), Gaussian())
    with pytest.raises(AssertionError):
        check(flow)


@every_flow
def test_untrained_density_is_the_base_or_near_it(name: str) -> None:
    flow, x = NAMED[name](4), torch.randn(50, 4, 1)
    difference = flow.log_prob(x) - flow.base_log_prob(x)
    assert difference.abs().max() < (20.0 if "mixture" in name else 1e-10)
    assert all(p.grad is None for p in flow.parameters())


@every_flow
def test_every_weight_is_trained(name: str) -> None:
    flow, x = build(name, 4, cond_channels=2), torch.randn(50, 4, 1)
    (-flow.log_prob(x, torch.randn(50, 2, 1)).mean()).backward()
    idle = [key for key, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize(  # two layers where the second is another one
    ("name", "depth"), [("nice", 2), ("real-nvp", 1), ("glow", 1), ("maf", 2), ("maf, mixture of logistics", 1), ("iaf", 1)]
)
def test_one_graph_equals_eager(name: str, depth: int) -> None:
    flow, x = randomized(NAMED[name](2, depth=depth, hidden=(4,)), 0.4), torch.randn(6, 2, 1)
    assert_one_graph(flow.log_prob, x)
    if "mixture" not in name:  # its inversion has 28 steps: see the slow test
        assert_one_graph(flow.sample, x)


@pytest.mark.slow
@torch.no_grad()
def test_sampling_a_mixture_is_one_graph_too() -> None:
    flow, z = randomized(maf(1, 1, (4,), "mixture_of_logistics", 2)), torch.randn(6, 1, 1)
    assert_one_graph(flow.sample, z)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="torch.compile needs a C++ compiler")
@torch.no_grad()
@pytest.mark.filterwarnings(r"ignore:`torch\._prims_common\.check` is deprecated:FutureWarning")  # torch 2.11 calls its own
def test_the_default_compiler_equals_eager() -> None:
    flow, x = randomized(maf(2, depth=1, hidden=(4,)), 0.4), torch.randn(6, 2, 1)
    assert_one_graph(flow.log_prob, x, backend="inductor")


def test_nice_keeps_the_volume_until_its_rescaling() -> None:
    flow, x = build("nice", 5), torch.randn(9, 5, 1)
    *couplings, rescaling = flow.transform.transforms
    z, log_det = Chain(couplings)(x)
    assert isinstance(rescaling, Static)
    assert (log_det == 0).all()
    assert (z - x).abs().max() > 0.1
    assert (flow.transform(x)[1] != 0).all()


@pytest.mark.parametrize("name", ["nice", "real-nvp", "glow", "maf"])
def test_every_feature_depends_on_every_other(name: str) -> None:
    flow, x = build(name, 4), torch.randn(1, 4, 1)
    matrix = torch.autograd.functional.jacobian(lambda x: flow.transform(x)[0], x).reshape(4, 4)
    assert (matrix != 0).all()


def test_maf_turns_the_order_of_the_features_between_layers() -> None:
    assert len(build("maf", 3).transform.transforms) == 5


def test_glow_starts_from_data() -> None:
    flow, x = glow(4, depth=2, hidden=(8,)), 1000 + 50 * torch.randn(200, 4, 1)
    flow.initialize(x)
    norms = [part for part in flow.transform.transforms if isinstance(part, ActNorm)]
    assert [bool(norm.initialized) for norm in norms] == [True, True]
    entropy_of_the_data = 4 * (0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e)) + torch.log(torch.tensor(50.0)))
    torch.testing.assert_close(flow.log_prob(x).mean(), -entropy_of_the_data, rtol=0, atol=0.2)


def test_maf_of_one_feature_is_a_mixture() -> None:
    flow = build("maf, mixture of logistics", 1)
    axis = torch.linspace(-80.0, 80.0, 20001)
    mass = torch.trapezoid(flow.log_prob(axis.view(-1, 1, 1)).exp().flatten(), axis)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-4)


def test_bad_arguments_are_named() -> None:
    for name in NAMED.keys() - {"made"}:
        refused(partial(NAMED[name], 2, depth=0), "`depth` must be at least 1, got 0")
    for make in (nice, real_nvp, glow):
        refused(partial(make, 1), "`channels` of a coupling must be at least 2, got 1")
    refused(lambda: nice(2, base="cauchy"), "`base` must be one of gaussian, logistic, got 'cauchy'")
    refused(lambda: maf(2, density="cauchy"), r"`density` must be one of gaussian, mixture_of_gaussians, .*, got 'cauchy'")
    for name in NAMED:
        refused(partial(NAMED[name](3).log_prob, torch.randn(2, 4, 1)), r"`x` must be \(B, 3, T\), got \(2, 4, 1\)")
