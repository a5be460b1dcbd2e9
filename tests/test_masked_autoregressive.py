"""Masked autoregressive flows of vectors: what each channel sees, steps against solver, MAF against IAF."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from flow_checks import assert_round_trip
from helpers import assert_log_det_is_exact, randomized, refused
from torch import Tensor

from wavflow.distributions import Distribution, Gaussian, Logistic
from wavflow.flows import Affine, Bijection, Flow, Inverse, Inverted, MaskedAutoregressive, MixtureCDF, Shift
from wavflow.nn import MADE

TAUS: dict[str, Callable[[], Bijection]] = {
    "shift": Shift,
    "affine": Affine,
    "mixture": lambda: MixtureCDF(Gaussian, Gaussian(), 3),
}


def masked(tau: Bijection, channels: int, cond_channels: int = 2, std: float = 0.4) -> MaskedAutoregressive:
    net = MADE(channels, tau.n_params, (8, 9), cond_channels)
    return randomized(MaskedAutoregressive(tau, net, channels), std)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("cond_channels", [0, 2])
@pytest.mark.parametrize("n_params", [1, 3])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 6), (40, 7, 20)], ids=str)
def test_parameters_see_every_earlier_channel_and_no_other(
    channels: int, cond_channels: int, n_params: int, hidden: tuple[int, ...]
) -> None:
    net = randomized(MADE(channels, n_params, hidden, cond_channels), 1.0)
    x, cond = torch.randn(1, channels, 1), torch.randn(1, cond_channels, 1)
    of_x, of_cond = torch.autograd.functional.jacobian(net, (x, cond))
    sees = (of_x.reshape(n_params, channels, channels) != 0).all(dim=0)
    assert torch.equal(sees, torch.ones(channels, channels).tril(-1).bool())
    assert not (of_x.reshape(n_params, channels, channels) != 0).any(dim=0).triu().any()
    assert (of_cond != 0).all(), "every channel must see what conditions it, the first one, too"


def test_net_that_is_too_narrow_is_named() -> None:
    MADE(6, 2, (5,))
    for hidden, cond_channels, least in (((8, 4), 0, 5), ((5,), 1, 6)):
        with pytest.raises(ValueError, match=f"`hidden` must be widths of at least {least} for 6 channels, got .*hides"):
            MADE(6, 2, hidden, cond_channels)


def test_untrained_net_yields_zero_and_still_learns() -> None:
    net = MADE(4, 2, (8,))
    params = net(torch.randn(3, 4, 1))
    params.sum().backward()
    assert params.abs().max() == 0
    assert net.layers[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", TAUS)
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize(("channels", "time"), [(1, 1), (2, 1), (5, 1), (3, 4)])
def test_log_det_is_that_of_the_autograd_jacobian(name: str, direction: str, channels: int, time: int) -> None:
    transform, cond = masked(TAUS[name](), channels), torch.randn(1, 2, time)
    assert_log_det_is_exact(lambda x: getattr(transform, direction)(x, cond), torch.randn(1, channels, time))


@pytest.mark.parametrize("name", TAUS)
def test_round_trip(name: str) -> None:
    assert_round_trip(masked(TAUS[name](), 5), torch.randn(3, 5, 2), torch.randn(3, 2, 2))


@pytest.mark.parametrize("name", TAUS)
@pytest.mark.parametrize("time", [1, 3])
def test_steps_and_solver_agree(name: str, time: int) -> None:
    transform, z, cond = masked(TAUS[name](), 6), torch.randn(4, 6, time), torch.randn(4, 2, time)
    solution = transform.solve(z, cond, tolerance=1e-12)
    torch.testing.assert_close(solution.value, transform.inverse(z, cond)[0], rtol=0, atol=1e-9)
    assert 3 <= solution.sweeps <= 7


def test_inverse_takes_one_pass_for_each_channel() -> None:
    transform, calls = masked(Affine(), 6), []
    transform.conditioner.register_forward_hook(lambda *_: calls.append(1))
    transform.inverse(torch.randn(2, 6, 1), torch.randn(2, 2, 1))
    assert len(calls) == 6


def test_inverse_has_the_gradient_of_its_jacobian() -> None:
    transform, cond, z = masked(Affine(), 3), torch.randn(1, 2, 1), torch.randn(1, 3, 1)
    x = transform.inverse(z, cond)[0]
    there = torch.autograd.functional.jacobian(lambda x: transform(x, cond)[0], x.detach()).reshape(3, 3)
    back = torch.autograd.functional.jacobian(lambda z: transform.inverse(z, cond)[0], z).reshape(3, 3)
    torch.testing.assert_close(there @ back, torch.eye(3), rtol=0, atol=1e-10)


@pytest.mark.parametrize("base", [Gaussian(), Logistic()], ids=["gaussian", "logistic"])
def test_density_of_an_iaf_sample_is_its_slow_score(base: Distribution) -> None:
    flow, cond, z = Flow(Inverse(masked(Inverted(Affine()), 5)), base), torch.randn(7, 2, 1), torch.randn(7, 5, 1)
    calls = []
    flow.transform.transform.conditioner.register_forward_hook(lambda *_: calls.append(1))
    x, log_prob, _ = flow.sample_and_log_prob(z, cond)
    passes = len(calls)
    assert passes == 1
    torch.testing.assert_close(log_prob, flow.log_prob(x, cond), rtol=0, atol=1e-10)
    assert len(calls) == 6


class OfTwoTimes(torch.nn.Module):
    """Parameters of channel c at t from channel c - 1 at t and t + 1."""

    context = (0, 1)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        above = torch.nn.functional.pad(x, (0, 0, 1, -1))
        return torch.sin(above) + torch.nn.functional.pad(above, (-1, 1))


def test_reach_of_the_inverse_grows_with_the_channels() -> None:
    transform, z = MaskedAutoregressive(Shift(), OfTwoTimes(), 3), torch.randn(1, 3, 8)
    matrix = torch.autograd.functional.jacobian(lambda z: transform.inverse(z)[0], z)[0, :, :, 0]
    at, of = matrix.abs().amax(dim=(0, 2)).nonzero().unbind(dim=1)
    assert transform.context == (0, (of - at).max()) == (0, 2)
    assert Inverse(transform).context == (0, 1)
    assert masked(Affine(), 3).context == (0, 0)


def test_wrong_number_of_features_is_named() -> None:
    for direction in (masked(Affine(), 3, 0), masked(Affine(), 3, 0).inverse):
        refused(partial(direction, torch.randn(2, 4, 1)), r"`x` must be \(B, 3, T\), got \(2, 4, 1\)")
