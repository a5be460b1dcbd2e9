"""Folding and parts: the order of samples, exact sums of log-derivatives, multi-scale flows and how far they reach."""

import pytest
import torch
from flow_checks import assert_round_trip, assert_total_log_det_is_exact
from helpers import jacobian, randomized, refused
from torch import Tensor

from wavflow.flows import (
    ActNorm,
    Affine,
    Autoregressive,
    Chain,
    Coupling,
    Folded,
    Inverse,
    InvertibleLinear,
    Partial,
    Transform,
)
from wavflow.flows.reshape import fold, unfold
from wavflow.nn import MLP, WaveNet


def coupling(channels: int, swap: bool = False, cond_channels: int = 0) -> Coupling:
    kept, changed = Coupling.halves(channels, swap)
    return randomized(Coupling(Affine(), MLP(kept, 2 * changed, (8,), cond_channels), channels, swap), 0.5)


def noncausal(channels: int) -> Coupling:
    kept, changed = Coupling.halves(channels)
    net = WaveNet(kept, 2 * changed, layers=2, channels=4, kernel_size=3, dilation_cycle=2, causal=False)
    return randomized(Coupling(Affine(), net, channels))


def multi_scale() -> Transform:
    """Two scales: even and odd samples, and of the even ones, pairs again."""
    coarse = Folded(Chain([randomized(InvertibleLinear(2)), coupling(2), coupling(2, swap=True)]), 2)
    return Folded(Chain([coupling(2), coupling(2, swap=True), Partial(coarse, 1)]), 2)


def test_fold_puts_the_earliest_sample_first() -> None:
    x = torch.arange(16).view(1, 2, 8)
    folded = fold(x, 4)
    assert folded[0].tolist() == [[0, 4], [8, 12], [1, 5], [9, 13], [2, 6], [10, 14], [3, 7], [11, 15]]
    assert torch.equal(unfold(folded, 4), x)
    assert torch.equal(fold(fold(x, 2), 2), folded)


def test_a_folded_coupling_keeps_the_early_half() -> None:
    x = torch.randn(1, 1, 12)
    z, _ = Folded(coupling(4), 4)(x)
    kept = (z == x).view(3, 4)
    assert kept.tolist() == [[True, True, False, False]] * 3


MAPS = {
    "one channel": (lambda: Folded(coupling(4), 4), 1),
    "two channels": (lambda: Folded(Chain([coupling(4), randomized(InvertibleLinear(4))]), 2), 2),
    "nested": (lambda: Folded(Folded(coupling(4), 2), 2), 1),
    "part": (lambda: Partial(coupling(2), 2), 3),
    "part that is all": (lambda: Partial(coupling(3), 3), 3),
    "multi-scale": (multi_scale, 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_rearranged_map_is_exact_both_ways(name: str) -> None:
    build, channels = MAPS[name]
    transform, x = build(), torch.randn(1, channels, 8)
    assert_total_log_det_is_exact(transform, x)
    assert_round_trip(transform, torch.randn(3, channels, 8))


def test_log_det_is_spread_evenly_over_a_fold() -> None:
    inner, x = coupling(4), torch.randn(2, 1, 12)
    coarse, fine = inner(fold(x, 4))[1], Folded(inner, 4)(x)[1]
    torch.testing.assert_close(fine.view(2, 3, 4), (coarse / 4).unsqueeze(-1).expand(2, 3, 4))


def test_the_other_channels_are_left_alone() -> None:
    x = torch.randn(2, 5, 3)
    z, _ = Partial(coupling(3), 3)(x)
    assert torch.equal(z[:, 3:], x[:, 3:])
    assert not torch.equal(z[:, :3], x[:, :3])


class Features:
    """Conditions at two rates."""

    def __init__(self, cond: Tensor, factor: int = 1) -> None:
        self.cond, self.factor = cond, factor

    def folded(self, factor: int) -> Tensor:
        return fold(self.cond, factor)


def test_what_conditions_is_folded_too() -> None:
    transform, x, cond = Folded(coupling(4, cond_channels=6), 2), torch.randn(2, 2, 8), torch.randn(2, 3, 8)
    z, _ = transform(x, cond)
    assert_total_log_det_is_exact(transform, x[:1], cond[:1])
    assert_round_trip(transform, x, cond)
    torch.testing.assert_close(transform(x, Features(cond))[0], z)
    torch.testing.assert_close(fold(z, 2), transform.transform(fold(x, 2), fold(cond, 2))[0])


def test_data_dependent_start_reaches_every_part() -> None:
    transform = Folded(Chain([ActNorm(4), Partial(ActNorm(3), 3)]), 4)
    transform.initialize(5 + torch.randn(20, 1, 8))
    norms = [module for module in transform.modules() if isinstance(module, ActNorm)]
    assert len(norms) == 2
    assert all(norm.initialized for norm in norms)
    torch.testing.assert_close(norms[1].params, torch.zeros(6), rtol=0, atol=1e-10)  # given standardized data


def iaf(channels: int = 1) -> Inverse:
    net = WaveNet(channels, 2 * channels, layers=2, channels=4, kernel_size=2, dilation_cycle=2)
    return Inverse(randomized(Autoregressive(Affine(), net)))


REACHES = {
    "iaf": (iaf, 1),
    "iafs": (lambda: Chain([iaf(), iaf()]), 1),
    "folded coupling": (lambda: Folded(noncausal(4), 4), 1),
    "folded mixing": (lambda: Folded(Chain([randomized(InvertibleLinear(3)), coupling(3)]), 3), 1),
    "multi-scale": (lambda: Folded(Chain([noncausal(2), Partial(Folded(noncausal(2), 2), 1)]), 2), 1),
}


@pytest.mark.parametrize("name", REACHES)
def test_reach_of_the_inverse_is_what_is_stated(name: str) -> None:
    build, channels = REACHES[name]
    transform, z = build(), torch.randn(1, channels, 48)
    seen = jacobian(lambda z: transform.inverse(z)[0], z).abs().amax(dim=(1, 3)) > 0  # (T out, T in)
    at, of = seen.nonzero().unbind(dim=1)
    before, after = transform.context
    assert (at - of).max() <= before
    assert (of - at).max() <= after
    if "folded" not in name and name != "multi-scale":  # the others see it all from some samples of a fold only
        assert ((at - of).max(), (of - at).max()) == (before, after)
    else:
        assert (at - of).max() > before / 2
        assert before < 48


def test_the_reach_of_an_autoregressive_map_depends_on_the_direction() -> None:
    flow = iaf()
    assert flow.context == (4, 0)
    assert flow.transform.context == (float("inf"), 0)
    assert Inverse(flow).context == flow.transform.context
    assert Folded(Chain([flow, flow]), 2).context == (17, 1)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_length_that_does_not_fold_is_named(direction: str) -> None:
    with pytest.raises(ValueError, match=r"`x` must have a multiple of 4 time steps.*got 10: cut it to 8 or pad it to 12"):
        getattr(Folded(coupling(4), 4), direction)(torch.randn(1, 1, 10))


def test_bad_arguments_are_named() -> None:
    refused(lambda: Folded(coupling(2), 0), "`factor` must be at least 1, got 0")
    refused(lambda: Partial(coupling(2), 0), "`channels` must be at least 1, got 0")
    refused(lambda: Partial(coupling(3), 3)(torch.randn(1, 2, 1)), "`x` must have at least 3 channels, got 2")
