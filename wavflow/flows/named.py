"""The named flows of vectors, each a chain of the same few parts, from flat, plain arguments.

Each function returns an untrained `Flow` for data (B, features, 1) that is the identity, unless it says otherwise. Where it has
`cond_channels` it can be a conditional density, of `cond` (B, cond_channels, 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wavflow.arguments import at_least, choose
from wavflow.distributions import Gaussian, Logistic
from wavflow.flows.autoregressive import MaskedAutoregressive
from wavflow.flows.base import Chain, Flow, Inverse, Transform
from wavflow.flows.coupling import Coupling
from wavflow.flows.elementwise import Affine, Bijection, Inverted, MixtureCDF, Shift
from wavflow.flows.gaussianization import Gaussianization
from wavflow.flows.linear import Householder, InvertibleLinear, Reverse
from wavflow.flows.mintnet import MintLayer
from wavflow.flows.static import ActNorm, Static
from wavflow.nn.mlp import MADE, MLP

BOUND = 3.0  # nats that one layer may stretch or squeeze by: where no data lie, a net's wider scales would only explode


def nice(
    features: int, depth: int = 4, hidden: Sequence[int] = (64, 64), base: str = "gaussian", cond_channels: int = 0
) -> Flow:
    """NICE: additive couplings of alternating halves and one rescaling; volume-preserving but for that.

    Args:
        features: D, at least 2.
        depth: Couplings.
        hidden: Widths of each net's hidden layers.
        base: "gaussian" or "logistic".
        cond_channels: See the module.

    References:
        Dinh et al. (2014), https://arxiv.org/abs/1410.8516
    """
    at_least(1, depth=depth)
    couplings = [_coupling(Shift(), features, i, hidden, cond_channels) for i in range(depth)]
    bases = {"gaussian": Gaussian, "logistic": Logistic}
    return Flow(Chain([*couplings, Static(Affine(), features)]), choose("base", base, bases)())


def real_nvp(features: int, depth: int = 6, hidden: Sequence[int] = (64, 64), cond_channels: int = 0) -> Flow:
    """Real-NVP: affine couplings of alternating halves; arguments as in `nice`.

    The paper normalizes by running statistics of the batches between the couplings; here nothing does.

    References:
        Dinh et al. (2017), https://arxiv.org/abs/1605.08803
    """
    at_least(1, depth=depth)
    couplings = [_coupling(Affine(BOUND), features, i, hidden, cond_channels) for i in range(depth)]
    return Flow(Chain(couplings), Gaussian())


def glow(features: int, depth: int = 6, hidden: Sequence[int] = (64, 64), cond_channels: int = 0) -> Flow:
    """Glow: steps of ActNorm, trainable mixing and an affine coupling; arguments as in `nice`. Starts as a rotation.

    Call `Flow.initialize` with a batch of data before training.

    References:
        Kingma & Dhariwal (2018), https://arxiv.org/abs/1807.03039
    """
    at_least(1, depth=depth)
    steps: list[Transform] = []
    for _ in range(depth):
        coupling = _coupling(Affine(BOUND), features, 0, hidden, cond_channels)
        steps += [ActNorm(features), InvertibleLinear(features), coupling]
    return Flow(Chain(steps), Gaussian())


def maf(
    features: int,
    depth: int = 5,
    hidden: Sequence[int] = (64, 64),
    density: str = "gaussian",
    n_components: int = 10,
    cond_channels: int = 0,
) -> Flow:
    """Masked autoregressive flow, the order of the features reversed from layer to layer; of depth 1, a MADE.

    Args:
        features: D.
        depth: Layers.
        hidden: Widths of each net's hidden layers, at least D.
        density: Of a feature given those before it, in the layer next to the base: "gaussian", "mixture_of_gaussians" or
            "mixture_of_logistics". The other layers are Gaussian (the paper's MAF MoG). A mixture does not start as the
            identity, since its components start apart.
        n_components: Of a mixture.
        cond_channels: See the module.

    References:
        Papamakarios et al. (2017), https://arxiv.org/abs/1705.07057
    """
    densities = {
        "gaussian": lambda: Affine(BOUND),
        "mixture_of_gaussians": lambda: MixtureCDF(Gaussian, Gaussian(), n_components),
        "mixture_of_logistics": lambda: MixtureCDF(Logistic, Gaussian(), n_components),
    }
    at_least(1, depth=depth)
    taus = [Affine(BOUND) for _ in range(depth - 1)] + [choose("density", density, densities)()]
    return Flow(_in_turned_order(_autoregressive(tau, features, hidden, cond_channels) for tau in taus), Gaussian())


def iaf(features: int, depth: int = 5, hidden: Sequence[int] = (64, 64), cond_channels: int = 0) -> Flow:
    """Inverse autoregressive flow: a MAF turned round, so sampling with the sample's density is one pass; see `maf`.

    References:
        Kingma et al. (2016), https://arxiv.org/abs/1606.04934
    """
    at_least(1, depth=depth)
    layers = (_autoregressive(Inverted(Affine(BOUND)), features, hidden, cond_channels) for _ in range(depth))
    return Flow(_in_turned_order(Inverse(layer) for layer in layers), Gaussian())


def mintnet(features: int, depth: int = 4, hidden: int = 16) -> Flow:
    """MintNet: triangular layers of masked convolutions, lower and upper in turn, after an ActNorm.

    Starts at random, with slopes about 1: not the identity. Call `Flow.initialize` with a batch of data before training.
    Density in one pass; sampling by sweeps, see `MintLayer`.

    Args:
        features: D.
        depth: Layers.
        hidden: Feature maps of each feature inside a layer; it has about (D * hidden)^2 weights.

    References:
        Song et al. (2019), https://arxiv.org/abs/1907.07945
    """
    at_least(1, depth=depth)
    layers = [MintLayer(features, hidden, upper=i % 2 == 1) for i in range(depth)]
    return Flow(Chain([ActNorm(features), *layers]), Gaussian())


def gaussianization(features: int, depth: int = 6, n_components: int = 16, n_reflections: int | None = None) -> Flow:
    """Gaussianization flow: steps of a rotation and a trainable mixture CDF for each feature, after an ActNorm.

    `Flow.initialize` with a batch of data is the better half of its training. Without it the mixtures are wide ones about 0.

    Args:
        features: D.
        depth: Steps.
        n_components: Logistics for each feature and step.
        n_reflections: Householder reflections in each rotation; D by default, which reach every rotation.

    References:
        Meng et al. (2020), https://arxiv.org/abs/2003.01941
    """
    at_least(1, depth=depth)
    steps: list[Transform] = [ActNorm(features)]
    for _ in range(depth):
        rotation = Householder(features, features if n_reflections is None else n_reflections)
        steps += [rotation, Gaussianization(features, n_components)]
    return Flow(Chain(steps), Gaussian())


def _coupling(tau: Bijection, features: int, index: int, hidden: Sequence[int], cond_channels: int) -> Coupling:
    swap = index % 2 == 1
    kept, changed = Coupling.halves(features, swap)
    return Coupling(tau, MLP(kept, tau.n_params * changed, hidden, cond_channels, squash=True), features, swap)


def _autoregressive(tau: Bijection, features: int, hidden: Sequence[int], cond_channels: int) -> MaskedAutoregressive:
    return MaskedAutoregressive(tau, MADE(features, tau.n_params, hidden, cond_channels, squash=True), features)


def _in_turned_order(layers: Iterable[Transform]) -> Chain:
    """Returns the layers with a reversal between any two."""
    parts: list[Transform] = []
    for layer in layers:
        parts += [layer, Reverse()]
    return Chain(parts[:-1])
