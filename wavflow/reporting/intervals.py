"""A mean over clips, and how sure it is."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Interval(NamedTuple):
    """A mean, the half-width of its 95 % confidence interval, and how many values it rests on."""

    mean: float
    half_width: float
    n: int


def mean_interval(values: Iterable[float]) -> Interval:
    """Mean over clips with the half-width of its 95 % Student-t interval; `n` counts what is used, the values that are finite.

    The half-width of one value is `nan`, and so is the mean of none.
    """
    kept = np.asarray([float(value) for value in values], dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    n = len(kept)
    if n < 2:
        return Interval(float(kept[0]) if n else math.nan, math.nan, n)
    half_width = stdtrit(n - 1, 0.975) * kept.std(ddof=1) / math.sqrt(n)
    return Interval(float(kept.mean()), float(half_width), n)
