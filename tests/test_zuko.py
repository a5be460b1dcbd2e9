"""zuko, an independent implementation, given our weights: the same log_prob."""

from collections.abc import Callable

import pytest
import torch
import zuko
from helpers import randomized
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform
from zuko.distributions import DiagNormal
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import LazyTransform, UnconditionalDistribution

from wavflow.distributions import Gaussian
from wavflow.flows import Affine, Bijection, Chain, Coupling, Flow, MaskedAutoregressive, Shift
from wavflow.nn import MADE, MLP

BOUND = 2.0
OPTIONS = {"hidden_features": (16, 12), "activation": nn.SiLU}


def additive(loc: Tensor) -> zuko.transforms.AdditiveTransform:
    return zuko.transforms.AdditiveTransform(-loc)


def whitening(loc: Tensor, raw: Tensor) -> AffineTransform:
    """`(x - loc) / exp(bound * tanh(raw / bound))`, by torch.distributions."""
    scale = torch.exp(BOUND * torch.tanh(raw / BOUND))
    return AffineTransform(-loc / scale, 1 / scale)


CASES: dict[str, tuple[Bijection, Callable]] = {"shift": (Shift(), additive), "affine": (Affine(BOUND), whitening)}
every_case = pytest.mark.parametrize(("tau", "univariate"), CASES.values(), ids=CASES)


def copy_weights(net: MLP, hyper: nn.Sequential, n_params: int) -> None:
    """Ours keeps the first parameter of all features together, zuko all parameters of the first feature."""
    theirs = [layer for layer in hyper if hasattr(layer, "weight")]  # its own class of linear layer
    with torch.no_grad():
        for mine, other in zip(net.layers, theirs, strict=True):
            turn = mine is net.layers[-1]
            for ours, copy in ((mine.weight, other.weight), (mine.bias, other.bias)):
                copy.copy_(ours.unflatten(0, (n_params, -1)).transpose(0, 1).flatten(0, 1) if turn else ours)


def assert_same_log_prob(flow: Flow, transforms: list[LazyTransform], features: int, context: int) -> None:
    base = UnconditionalDistribution(DiagNormal, torch.zeros(features), torch.ones(features), buffer=True)
    theirs = zuko.flows.Flow(transforms, base)
    x, cond = 2 * torch.randn(40, features), torch.randn(40, context)
    ours = flow.log_prob(x.unsqueeze(-1), cond.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(ours, theirs(cond if context else None).log_prob(x), rtol=0, atol=1e-10)
    assert (ours - flow.base_log_prob(x.unsqueeze(-1)).squeeze(-1)).abs().min() > 1e-6, "the identity would prove nothing"


@every_case
@pytest.mark.parametrize("context", [0, 2])
def test_masked_autoregressive_flow(tau: Bijection, univariate: Callable, context: int) -> None:
    features, ours, theirs = 5, [], []
    for _ in range(2):
        layer = MaskedAutoregressive(tau, MADE(features, tau.n_params, (16, 12), context), features)
        shapes = [()] * tau.n_params
        peer = MaskedAutoregressiveTransform(features, context, univariate=univariate, shapes=shapes, **OPTIONS)
        copy_weights(randomized(layer).conditioner, peer.hyper, tau.n_params)
        ours.append(layer)
        theirs.append(peer)
    assert_same_log_prob(Flow(Chain(ours), Gaussian()), theirs, features, context)


@every_case
@pytest.mark.parametrize("context", [0, 2])
def test_coupling_flow(tau: Bijection, univariate: Callable, context: int) -> None:
    features, ours, theirs = 5, [], []
    for swap in (False, True):
        kept, changed = Coupling.halves(features, swap)
        layer = randomized(Coupling(tau, MLP(kept, tau.n_params * changed, (16, 12), context), features, swap))
        mask = (torch.arange(features) >= changed) if swap else (torch.arange(features) < kept)  # true where it is kept
        shapes = [()] * tau.n_params
        peer = GeneralCouplingTransform(features, context, mask, univariate=univariate, shapes=shapes, **OPTIONS)
        copy_weights(layer.conditioner, peer.hyper, tau.n_params)
        ours.append(layer)
        theirs.append(peer)
    assert_same_log_prob(Flow(Chain(ours), Gaussian()), theirs, features, context)
