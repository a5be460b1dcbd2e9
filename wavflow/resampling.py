"""Audio at another sample rate, as a whole or as a segment of the whole."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np

# A Kaiser-windowed sinc: the stop band lies below 16-bit noise, the pass band ends at .95 of the Nyquist rate.
_ZERO_CROSSINGS = 64
_ROLLOFF = 0.9475937167399596
_BETA = 14.769656459379492
# The filter has as many taps as the ratio's larger term, times 135: 2999 to 22050 Hz takes 24 MB. 44100 to 22051 Hz, which
# would take 48, is done as 2 to 1, a tenth of a cent off. All pairs of usual rates up to 192 kHz stay exact.
_FINEST_RATIO = 3000


def ratio(target: int, source: int) -> tuple[int, int]:
    """Returns two rates in lowest terms, target first; near enough where they have next to no common divisor.

    >>> ratio(22050, 48000)
    (147, 320)
    """
    exact = Fraction(target, source)
    small = min(exact, 1 / exact)
    near = small.limit_denominator(max(_FINEST_RATIO, math.ceil(1 / small)))
    return (near.denominator, near.numerator) if exact > 1 else (near.numerator, near.denominator)


def resampled_length(length: int, up: int, down: int) -> int:
    """Returns how many samples there are of so many at `up / down` times the rate."""
    return -(-length * up // down)


def source_segment(first: int, last: int, up: int, down: int) -> tuple[int, int, int]:
    """Returns what to read for the resampled samples `first … last - 1`: its start and stop, and where `first` lies in it.

    Resampled sample n lies at source sample `n * down / up`; the start is a multiple of `down`, where that is a whole number.
    The stop may lie beyond the end.
    """
    margin = math.ceil(_ZERO_CROSSINGS * max(1, down / up) / _ROLLOFF) + 1  # what the filter sees on either side
    block = max(0, math.floor((first * down / up - margin) / down))
    return block * down, math.ceil(last * down / up) + margin, first - block * up


def resample(audio: np.ndarray, up: int, down: int) -> np.ndarray:
    """Returns audio (T,), float64, at `up / down` times its rate; beyond its ends it counts as zero."""
    from scipy.signal import resample_poly  # takes a second, and most audio is at the right rate already

    return resample_poly(audio, up, down, window=_filter(max(up, down)))


@lru_cache(maxsize=16)
def _filter(widest: int) -> np.ndarray:
    """Returns the filter at the least common multiple of both rates, for the larger term of the ratio."""
    half = math.ceil(_ZERO_CROSSINGS * widest / _ROLLOFF)
    time = np.arange(-half, half + 1) * (_ROLLOFF / widest)  # in zero crossings
    window = np.i0(_BETA * np.sqrt(np.clip(1.0 - (time / _ZERO_CROSSINGS) ** 2, 0.0, None))) / np.i0(_BETA)
    return (_ROLLOFF / widest) * np.sinc(time) * window
