"""Shapes: their densities integrate to 1, and their samples follow them."""

import functools

import pytest
import torch
from helpers import refused
from torch import Tensor

from wavflow.tabular.shapes import SHAPES, make

FIELDS, FINE = 12, 20  # a square about 0 in 12 x 12 fields of 20 x 20 points

every_shape = pytest.mark.parametrize("name", SHAPES)


@functools.cache
def mass_of_fields(name: str) -> Tensor:
    """The integral of the density over each field, (FIELDS, FIELDS)."""
    shape, n = make(name), FIELDS * FINE
    axis = (torch.arange(n) + 0.5) / n * 2 * shape.extent - shape.extent
    grid = torch.cartesian_prod(axis, axis)
    density = torch.cat([shape.log_prob(part).exp() for part in grid.split(5000)]) * (axis[1] - axis[0]) ** 2
    return density.reshape(FIELDS, FINE, FIELDS, FINE).sum(dim=(1, 3))


@every_shape
def test_the_density_integrates_to_one(name: str) -> None:
    assert mass_of_fields(name).sum().item() == pytest.approx(1.0, abs=1e-3)


@every_shape
def test_samples_fall_into_each_field_as_often_as_the_density_says(name: str) -> None:
    shape, n = make(name), 40000
    field = ((shape.sample(n) + shape.extent) / (2 * shape.extent) * FIELDS).floor().long()
    inside = ((field >= 0) & (field < FIELDS)).all(dim=1)
    index = field[inside] @ torch.tensor([FIELDS, 1])
    counts = torch.bincount(index, minlength=FIELDS**2)
    expected = n * mass_of_fields(name).flatten()
    filled = expected > 5
    z = (counts - expected)[filled] / expected[filled].sqrt()
    assert z.square().mean() < 1 + 5 * (2 / filled.sum()) ** 0.5, "chi-square, five deviations"
    assert counts[~filled].sum() <= expected[~filled].sum() + 5 * (1 + expected[~filled].sum().sqrt())


@every_shape
def test_samples_are_those_of_their_seed(name: str) -> None:
    first, again, other = (make(name).sample(5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_shape_is_refused() -> None:
    refused(lambda: make("star"), r"one of ring, circles, .* got 'star'")
