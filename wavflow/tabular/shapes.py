"""Shapes in the plane whose densities are exactly known, so that a KL to the truth can be stated.

All but one are Gaussian blobs of one width, their centers points or a curve: `p(x) = integral of N(x; c(t), std^2) dt`. Along
the curve the integral is a Gauss-Legendre sum, whose nodes lie so close (under a width apart) that float64 can't tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavflow.arguments import choose


@dataclass(frozen=True)
class Shape:
    """A density in the plane.

    Args:
        log_prob: Maps points (N, 2) to log-densities (N,) in nats, exactly; -inf where nothing can lie.
        sample: Draws points (N, 2) from N and a generator, in float64.
        extent: Half-width of the square about 0 that holds all but 1e-3 of the mass.
    """

    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int, torch.Generator | None], Tensor]
    extent: float


Curve = Callable[[Tensor], Tensor]  # maps t (N,) in [0, 1] to points (N, 2)


def make(name: str) -> Shape:
    """Returns the shape of a name; ValueError where there is none."""
    return choose("name", name, SHAPES)()


def ring() -> Shape:
    """Eight Gaussians in a ring of radius 2."""
    return _blobs([_point(2 * math.cos(a), 2 * math.sin(a)) for a in _angles(8)], std=0.2, nodes=1, extent=3.5)


def circles() -> Shape:
    """Two concentric circles, of radius 1 and 2."""

    def circle(t: Tensor) -> Tensor:
        return _direction(2 * math.pi * t)

    return _blobs([circle, lambda t: 2 * circle(t)], std=0.12, nodes=192, extent=3.0)


def moons() -> Shape:
    """Two half circles that embrace each other."""

    def upper(t: Tensor) -> Tensor:
        return 1.5 * _direction(math.pi * t) - torch.tensor([0.75, 0.375])

    return _blobs([upper, lambda t: -upper(t)], std=0.15, nodes=96, extent=3.5)


def spirals() -> Shape:
    """Two arms of one and a quarter turns."""

    def arm(t: Tensor) -> Tensor:
        angle = math.pi * (0.5 + 2.5 * t)
        return (angle / math.pi)[:, None] * _direction(angle)

    return _blobs([arm, lambda t: -arm(t)], std=0.12, nodes=256, extent=3.8)


def pinwheel() -> Shape:
    """Five bars that a swirl bends: a rotation by an angle that grows with the radius, which leaves areas as they are."""
    angles = torch.tensor(_angles(5), dtype=torch.float64)
    loc, std = torch.tensor([1.5, 0.0], dtype=torch.float64), torch.tensor([0.45, 0.12], dtype=torch.float64)

    def swirl(x: Tensor, sign: float) -> Tensor:
        return _rotate(x, sign * 0.8 * x.norm(dim=1))

    def log_prob(x: Tensor) -> Tensor:
        straight = swirl(x.double(), -1.0)
        logs = [-0.5 * ((_rotate(straight, -angle) - loc) / std).square().sum(dim=1) for angle in angles]
        return (torch.stack(logs).logsumexp(dim=0) - torch.log(5 * 2 * math.pi * std.prod())).to(x.dtype)

    def sample(n: int, generator: torch.Generator | None = None) -> Tensor:
        bar = loc + std * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return swirl(_rotate(bar, angles[torch.randint(len(angles), (n,), generator=generator)]), 1.0)

    return Shape(log_prob, sample, extent=3.3)


def checkerboard() -> Shape:
    """Every other field of a board of four by four, evenly filled."""

    def log_prob(x: Tensor) -> Tensor:
        field = torch.floor(x)
        inside = (x.abs() < 2).all(dim=1) & (field.sum(dim=1) % 2 == 0)
        return torch.where(inside, -math.log(8.0), -math.inf)

    def sample(n: int, generator: torch.Generator | None = None) -> Tensor:
        column = torch.randint(4, (n,), generator=generator)
        row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
        return torch.stack([column, row], dim=1) + torch.rand(n, 2, generator=generator, dtype=torch.float64) - 2

    return Shape(log_prob, sample, extent=2.0)


def banana() -> Shape:
    """`x0 ~ N(0, 1), x1 ~ N(x0^2 - 1, 0.5^2)`: one affine autoregressive map can fit it exactly."""

    def log_prob(x: Tensor) -> Tensor:
        z = (x[:, 1] - x[:, 0].square() + 1) / 0.5
        return -0.5 * (x[:, 0].square() + z.square()) - math.log(2 * math.pi * 0.5)

    def sample(n: int, generator: torch.Generator | None = None) -> Tensor:
        x, z = torch.randn(2, n, generator=generator, dtype=torch.float64)
        return torch.stack([x, x.square() - 1 + 0.5 * z], dim=1)

    return Shape(log_prob, sample, extent=12.0)


SHAPES = {make.__name__: make for make in (ring, circles, moons, spirals, pinwheel, checkerboard, banana)}


def _blobs(curves: list[Curve], std: float, nodes: int, extent: float) -> Shape:
    """Gaussian blobs along curves, all curves alike in mass, t even along each."""
    t, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(nodes))
    centers = torch.cat([curve((t + 1) / 2) for curve in curves])
    log_weights = (weights / weights.sum() / len(curves)).log().repeat(len(curves))

    def log_prob(x: Tensor) -> Tensor:
        distance = (x.double()[:, None] - centers).square().sum(dim=2)
        logs = torch.logsumexp(log_weights - 0.5 * distance / std**2, dim=1)
        return (logs - math.log(2 * math.pi * std**2)).to(x.dtype)

    def sample(n: int, generator: torch.Generator | None = None) -> Tensor:
        along = torch.rand(n, generator=generator, dtype=torch.float64)
        points = torch.stack([curve(along) for curve in curves])
        which = torch.randint(len(curves), (n,), generator=generator)
        return points[which, torch.arange(n)] + std * torch.randn(n, 2, generator=generator, dtype=torch.float64)

    return Shape(log_prob, sample, extent)


def _angles(n: int) -> list[float]:
    return [2 * math.pi * k / n for k in range(n)]


def _point(x: float, y: float) -> Curve:
    return lambda t: torch.tensor([x, y], dtype=torch.float64).expand(len(t), 2)


def _direction(angle: Tensor) -> Tensor:
    return torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], dim=1)
