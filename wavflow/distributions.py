"""Elementwise densities for autoregressive audio models.

Every density has the same few methods, and all of them are logarithms, because a vocoder meets both tails: an untrained
net puts its `loc` hundreds of scales away from the sample, and a probability that underflows there takes its gradient
with it. Both `log_cdf` and `log_sf` (survival, `1 - cdf`) are offered, since the logarithm of the larger of the two has
rounded to 0 long before. `quantile` takes both for the same reason: it reads the smaller one.

Parameters are tensors that broadcast against `x`; a mixture has its K components in one more, last dimension. All is
computed in float32 at least. First derivatives are exact, also those of `quantile`; its second ones are not.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Distribution(ABC):
    """Contract of a density over the real line, elementwise."""

    standard_noise: Callable[..., Tensor]  # of the base of a flow, see `LocationScale`; so is the next one
    fill_standard: Callable[..., Tensor]

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log-density at `x`, in nats per element."""

    @abstractmethod
    def log_cdf(self, x: Tensor) -> Tensor:
        """Returns `log P(X <= x)`, accurate where it is very negative."""

    @abstractmethod
    def log_sf(self, x: Tensor) -> Tensor:
        """Returns `log P(X > x)`, accurate where it is very negative."""

    @abstractmethod
    def log_mass(self, x: Tensor, width: float) -> Tensor:
        """Returns `log P(x - width / 2 < X < x + width / 2)`, in nats, without cancellation."""

    @abstractmethod
    def quantile(self, log_cdf: Tensor, log_sf: Tensor) -> Tensor:
        """Inverse of the pair (`log_cdf`, `log_sf`), accurate in both tails.

        Args:
            log_cdf: Log of the probability below the wanted point.
            log_sf: Log of the probability above it. Both must be finite, and their exponentials add up to 1: a gradient
                is right if both stem from the same variable.
        """

    @abstractmethod
    def sample(self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws without gradient; the result is `sample_shape` followed by the shape of the parameters."""

    def entropy(self) -> Tensor:
        """Returns the differential entropy in nats, where it has a closed form."""
        raise NotImplementedError(f"{type(self).__name__} has no closed-form entropy: average -log_prob over samples.")


class LocationScale(Distribution):
    """Density `f((x - loc) / scale) / scale` of a standard member f that is symmetric about 0.

    A family defines its standard member: what is declared below, and `fill_standard(empty, generator)`, which draws.

    Args:
        loc: Center, in the unit of `x`.
        log_scale: Natural log of the scale; broadcasts with `loc`.
    """

    _standard_entropy: float
    _log_prob: Callable[[Tensor], Tensor]
    _log_cdf: Callable[[Tensor], Tensor]
    _log_mass: Callable[[Tensor, Tensor], Tensor]  # of a width
    _quantile: Callable[[Tensor, Tensor], Tensor]  # of log_cdf and log_sf

    def __init__(self, loc: Tensor | float = 0.0, log_scale: Tensor | float = 0.0) -> None:
        self.loc, self.log_scale = _real(loc), _real(log_scale)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_prob(self._standardize(x)) - self.log_scale

    def log_cdf(self, x: Tensor) -> Tensor:
        return self._log_cdf(self._standardize(x))

    def log_sf(self, x: Tensor) -> Tensor:
        return self._log_cdf(-self._standardize(x))

    def log_mass(self, x: Tensor, width: float) -> Tensor:
        return self._log_mass(self._standardize(x), width * torch.exp(-self.log_scale))

    def quantile(self, log_cdf: Tensor, log_sf: Tensor) -> Tensor:
        return self.loc + torch.exp(self.log_scale) * self._quantile(_real(log_cdf), _real(log_sf))

    def entropy(self) -> Tensor:
        return self._standard_entropy + self.log_scale + torch.zeros_like(self.loc)

    def sample(self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def rsample(self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws `loc + scale * noise`, differentiable in both; the result shape is as in `sample`."""
        like = self.loc + self.log_scale
        noise = self.standard_noise((*sample_shape, *like.shape), generator, like.dtype, like.device)
        return self.loc + torch.exp(self.log_scale) * noise

    @classmethod
    def standard_noise(
        cls,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws from the standard member (`loc` 0, `log_scale` 0)."""
        return cls.fill_standard(torch.empty(shape, dtype=dtype, device=device), generator)

    def _standardize(self, x: Tensor) -> Tensor:
        return (_real(x) - self.loc) * torch.exp(-self.log_scale)


class Gaussian(LocationScale):
    """Normal density; `scale` is the standard deviation."""

    _standard_entropy = 0.5 + _HALF_LOG_TWO_PI

    @staticmethod
    def fill_standard(empty: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills a tensor with draws from the standard member, in place, and returns it."""
        return empty.normal_(generator=generator)

    @staticmethod
    def _log_prob(z: Tensor) -> Tensor:
        return -0.5 * z * z - _HALF_LOG_TWO_PI

    @staticmethod
    def _log_cdf(z: Tensor) -> Tensor:
        # Not torch.special.log_ndtr: the gradient of that one is 4 % off at z = -1000 in float32, and 0 at -1e6.
        # Not z.abs(): its gradient at 0 is 0.
        log_tail, _ = _log_tail_and_hazard(torch.where(z < 0, -z, z))
        return torch.where(z < 0, log_tail, torch.log1p(-torch.exp(log_tail)))

    @staticmethod
    def _log_mass(z: Tensor, width: Tensor) -> Tensor:
        # Mirrored to the upper side, where `mass = sf(near) - sf(far)` is a difference of small numbers. In a narrow
        # bin that is all rounding, and the midpoint rule does better: width^2 / 24 off, relative to the log-density.
        distance = torch.where(z < 0, -z, z)
        eps = torch.finfo(z.dtype).eps
        log_near, log_far = Gaussian._log_cdf(width / 2 - distance), Gaussian._log_cdf(-width / 2 - distance)
        gap = (log_near - log_far).clamp(min=eps)  # keeps the branch that is not taken, and its gradient, finite
        difference = log_near + torch.log(-torch.expm1(-gap))
        midpoint = Gaussian._log_prob(z) + torch.log(width)
        return torch.where(width < eps ** (1 / 3), midpoint, difference)

    @staticmethod
    def _quantile(log_cdf: Tensor, log_sf: Tensor) -> Tensor:
        """Inverts the smaller tail, `log_tail(a) = t`, by Newton's method.

        log_tail is concave and `log_tail(a) <= -a^2 / 2 - log 2`, so `sqrt(-2 (t + log 2))` starts above the root and
        the steps descend to it; four leave 1e-13. The fifth carries the gradient (implicit function theorem).
        """
        upper = log_sf < log_cdf
        target = torch.where(upper, log_sf, log_cdf)  # not minimum(): it would halve the gradient at the median
        with torch.no_grad():
            a = torch.sqrt((-2 * (target + math.log(2))).clamp(min=0))
            for _ in range(4):
                log_tail, hazard = _log_tail_and_hazard(a)
                a = a + (log_tail - target) / hazard
            log_tail, hazard = _log_tail_and_hazard(a)
        a = a + (log_tail - target) / hazard
        return torch.where(upper, a, -a)


class Logistic(LocationScale):
    """Density `sigmoid(z) sigmoid(-z) / scale`; its standard deviation is `scale * pi / sqrt(3)`."""

    _standard_entropy = 2.0
    _log_cdf = staticmethod(F.logsigmoid)

    @staticmethod
    def fill_standard(empty: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills a tensor with draws from the standard member, in place, and returns it."""
        # A log-ratio of exponential variables: no uniform number that can be 0 or 1, and both tails equally fine.
        other = torch.empty_like(empty).exponential_(generator=generator)
        return empty.exponential_(generator=generator).log_().sub_(other.log_())

    @staticmethod
    def _log_prob(z: Tensor) -> Tensor:
        return F.logsigmoid(z) + F.logsigmoid(-z)

    @staticmethod
    def _log_mass(z: Tensor, width: Tensor) -> Tensor:
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no difference is ever taken.
        return F.logsigmoid(z + width / 2) + F.logsigmoid(width / 2 - z) + torch.log(-torch.expm1(-width))

    @staticmethod
    def _quantile(log_cdf: Tensor, log_sf: Tensor) -> Tensor:
        return log_cdf - log_sf


class Mixture(Distribution):
    """Convex combination of K members of one location-scale family.

    Args:
        component_class: `Gaussian` or `Logistic`.
        logits: (..., K), unnormalized log-weights.
        loc: (..., K), centers of the components.
        log_scale: (..., K), natural logs of their scales.

    Raises:
        ValueError: If the last dimensions are not all the same K.
    """

    # With scales from e^-9 to e^1 in one mixture and targets out to 30 deviations, 12 + 8 steps fail once in 2,500
    # draws, 16 + 8 never in 60,000.
    _bisections, _newton_steps = 20, 8

    def __init__(self, component_class: type[LocationScale], logits: Tensor, loc: Tensor, log_scale: Tensor) -> None:
        sizes = [tuple(p.shape[-1:]) for p in (logits, loc, log_scale)]
        if sizes[0] == () or len(set(sizes)) > 1:
            raise ValueError(
                "`logits`, `loc` and `log_scale` must have the same number of components in their last dimension, got "
                f"shapes {tuple(logits.shape)}, {tuple(loc.shape)} and {tuple(log_scale.shape)}: add or move it there."
            )
        logits, loc, log_scale = torch.broadcast_tensors(logits, loc, log_scale)
        self.components = component_class(loc, log_scale)
        self.log_weights = F.log_softmax(_real(logits), dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._combine(self.components.log_prob(x.unsqueeze(-1)))

    def log_cdf(self, x: Tensor) -> Tensor:
        return self._combine(self.components.log_cdf(x.unsqueeze(-1)))

    def log_sf(self, x: Tensor) -> Tensor:
        return self._combine(self.components.log_sf(x.unsqueeze(-1)))

    def log_mass(self, x: Tensor, width: float) -> Tensor:
        # Per component: between two modes the mixture's own tails are near 1/2, their difference would be all rounding.
        return self._combine(self.components.log_mass(x.unsqueeze(-1), width))

    def quantile(self, log_cdf: Tensor, log_sf: Tensor) -> Tensor:
        """Solves `log_cdf(x) - log_sf(x) = target` between the outermost quantiles of the components.

        Bisection of the smaller tail comes near and Newton's method polishes; a Newton step that would leave the bracket is
        a bisection. Mind the cost, 28 evaluations: to draw, use `sample`.
        """
        log_cdf, log_sf = _real(log_cdf), _real(log_sf)
        target = log_cdf - log_sf
        with torch.no_grad():
            ends = self.components.quantile(log_cdf.unsqueeze(-1), log_sf.unsqueeze(-1))
            low, high = ends.amin(dim=-1), ends.amax(dim=-1)
            side, goal = torch.where(target > 0, -1.0, 1.0).to(target), torch.minimum(log_cdf, log_sf)
            x = (low + high) / 2
            for _ in range(self._bisections):
                below = side * (self._log_tail(x, side) - goal) < 0
                low, high = torch.where(below, x, low), torch.where(below, high, x)
                x = (low + high) / 2
            for _ in range(self._newton_steps):
                logit, slope = self._logit_and_slope(x)
                low, high = torch.where(logit < target, x, low), torch.where(logit < target, high, x)
                newton = x - (logit - target) / slope
                inside = (newton >= low) & (newton <= high)
                x = torch.where(inside, newton, (low + high) / 2)
            slope = self._logit_and_slope(x)[1]
        gradient_only = (target - (self.log_cdf(x) - self.log_sf(x))) / slope  # implicit function theorem
        return x + (gradient_only - gradient_only.detach())

    def sample(self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            draws = self.components.sample(sample_shape, generator)
            race = torch.empty_like(draws).exponential_(generator=generator).log()
            winner = torch.argmax(self.log_weights - race, dim=-1, keepdim=True)  # Gumbel's trick
            return draws.gather(-1, winner).squeeze(-1)

    def _combine(self, log_values: Tensor) -> Tensor:
        return torch.logsumexp(self.log_weights + log_values, dim=-1)

    def _log_tail(self, x: Tensor, side: Tensor) -> Tensor:
        """Returns log_cdf where `side` is 1, log_sf where it is -1: one evaluation, for both families are symmetric."""
        return self._combine(self.components._log_cdf(side.unsqueeze(-1) * self.components._standardize(x.unsqueeze(-1))))

    def _logit_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `log cdf - log sf` and its derivative, floored: on a plateau between modes it underflows."""
        log_cdf, log_sf = self.log_cdf(x), self.log_sf(x)
        log_slope = self.log_prob(x) - log_cdf - log_sf
        return log_cdf - log_sf, torch.exp(log_slope.clamp(min=0.5 * math.log(torch.finfo(x.dtype).tiny)))


class Discretized:
    """Probability of the 2^bits equal bins of PCM audio under a continuous density.

    Centers lie at `k / 2^(bits - 1)` for k from -2^(bits - 1) to 2^(bits - 1) - 1; the first and the last bin take the
    tails, so the bins sum to 1. Compared with a density, a mass is smaller by the bin width: for narrow bins
    `log_prob = density.log_prob - (bits - 1) ln 2`.

    Args:
        distribution: Continuous density of audio on [-1, 1).
        bits: Bits per sample, 1 to 24.

    Raises:
        ValueError: If `bits` is not in that range.

    References:
        PixelCNN++ (Salimans et al., 2017), section 2.1, https://arxiv.org/abs/1701.05517
    """

    def __init__(self, distribution: Distribution, bits: int = 16) -> None:
        if not 1 <= bits <= 24:
            raise ValueError(f"`bits` must be from 1 to 24, as float32 resolves, got {bits}: use 16 for usual audio.")
        self.distribution, self.width = distribution, 2.0 ** (1 - bits)

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log-mass of the bin centered at `x`, in nats; `x` is clipped to the range, and not rounded."""
        x = _real(x).clamp(-1.0, 1.0 - self.width)
        half = self.width / 2
        log_mass = self.distribution.log_mass(x, self.width)
        log_mass = torch.where(x < -1.0 + half, self.distribution.log_cdf(x + half), log_mass)
        return torch.where(x > 1.0 - 3 * half, self.distribution.log_sf(x - half), log_mass)

    def sample(self, sample_shape: tuple[int, ...] = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws bin centers, without gradient."""
        x = self.distribution.sample(sample_shape, generator)
        return (torch.round(x / self.width) * self.width).clamp(-1.0, 1.0 - self.width)


def inverse_cdf(distribution: Distribution, u: Tensor) -> Tensor:
    """Inverse transform sampling, `x = F^-1(u)`: uniform u becomes data of a distribution, differentiably.

    F itself, followed by the inverse CDF of a base density, is an elementwise bijection from data to noise: `MixtureCDF` of
    `wavflow.flows`, and the mixture-of-logistics teacher is that in a flow. A u near 1 is a coarse number: where the upper
    tail matters, give both logarithms to `quantile` instead.

    Args:
        distribution: Any density of this module.
        u: Probabilities in the open interval (0, 1).

    Raises:
        ValueError: Where u is 0, 1 or outside: its x would be infinite, or none.
    """
    u = _real(u)
    if not torch.compiler.is_compiling() and not ((u > 0) & (u < 1)).all():  # it looks at values: no part of a graph
        low, high = u.aminmax()
        raise ValueError(f"`u` must lie strictly between 0 and 1, got values from {low:g} to {high:g}: clamp it.")
    return distribution.quantile(torch.log(u), torch.log1p(-u))


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """Kullback-Leibler divergence `KL(q || p) = E_q[log q - log p]` of two normal densities, elementwise, in nats.

    `0.5 (exp(2d) - 1 - 2d) + 0.5 ((q.loc - p.loc) / p.scale)^2` with `d = q.log_scale - p.log_scale`.
    """
    d = q.log_scale - p.log_scale
    offset = (q.loc - p.loc) * torch.exp(-p.log_scale)
    return 0.5 * (torch.expm1(2 * d) - 2 * d) + 0.5 * offset * offset


def _real(value: Tensor | float) -> Tensor:
    """Makes a tensor of at least float32 precision."""
    value = torch.as_tensor(value)
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _log_tail_and_hazard(a: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `log P(Z > a)` for a Gaussian Z and `a >= 0`, and minus its derivative, `pdf(a) / P(Z > a)`."""
    erfcx = torch.special.erfcx(a * math.sqrt(0.5))  # exp(t^2) erfc(t): falls like 1 / t and never underflows
    return torch.log(0.5 * erfcx) - 0.5 * a * a, math.sqrt(2 / math.pi) / erfcx
