"""Densities of one location and scale, and what every density can do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from wavflow.arguments import at_least_float32

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Distribution(ABC):
    """Contract of a density over the real line, elementwise."""

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

    A family defines its standard member: what is declared below.

    Args:
        loc: Center, in the unit of `x`.
        log_scale: Natural log of the scale; broadcasts with `loc`.
    """

    fill_standard: Callable[..., Tensor]  # fills a tensor in place with draws, by a generator, and returns it
    _standard_entropy: float
    _log_prob: Callable[[Tensor], Tensor]
    _log_cdf: Callable[[Tensor], Tensor]
    _log_mass: Callable[[Tensor, Tensor], Tensor]  # of a width
    _quantile: Callable[[Tensor, Tensor], Tensor]  # of log_cdf and log_sf

    def __init__(self, loc: Tensor | float = 0.0, log_scale: Tensor | float = 0.0) -> None:
        self.loc, self.log_scale = at_least_float32(loc), at_least_float32(log_scale)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_prob(self._standardize(x)) - self.log_scale

    def log_cdf(self, x: Tensor) -> Tensor:
        return self._log_cdf(self._standardize(x))

    def log_sf(self, x: Tensor) -> Tensor:
        return self._log_cdf(-self._standardize(x))

    def log_mass(self, x: Tensor, width: float) -> Tensor:
        return self._log_mass(self._standardize(x), width * torch.exp(-self.log_scale))

    def quantile(self, log_cdf: Tensor, log_sf: Tensor) -> Tensor:
        return self.loc + torch.exp(self.log_scale) * self._quantile(at_least_float32(log_cdf), at_least_float32(log_sf))

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
        return (at_least_float32(x) - self.loc) * torch.exp(-self.log_scale)


class Gaussian(LocationScale):
    """Normal density; `scale` is the standard deviation."""

    _standard_entropy = 0.5 + _HALF_LOG_TWO_PI

    @staticmethod
    def fill_standard(empty: Tensor, generator: torch.Generator | None = None) -> Tensor:
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
    u = at_least_float32(u)
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


def _log_tail_and_hazard(a: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `log P(Z > a)` for a Gaussian Z and `a >= 0`, and minus its derivative, `pdf(a) / P(Z > a)`."""
    erfcx = torch.special.erfcx(a * math.sqrt(0.5))  # exp(t^2) erfc(t): falls like 1 / t and never underflows
    return torch.log(0.5 * erfcx) - 0.5 * a * a, math.sqrt(2 / math.pi) / erfcx
