"""Arithmetic with the same result, to the last bit, on every machine: without it coded audio can't be decoded.

IEEE 754 fixes +, -, *, / and the square root. It does not fix exp, tanh or erfc, nor the order of a sum, nor whether a product
and the sum that it goes into are rounded once or twice: all of these differ between processors, libraries and versions. So
the coder uses these five operations alone, in the order written here. Numba keeps that order: LLVM reorders and fuses nothing
without a flag that allows it, and no function here sets one.

A result that changes in its last bit makes older files unreadable: then the format needs a new version, see `codec`.
"""

from __future__ import annotations

import math

import numpy as np

from wavflow.kernels.compiling import compiled

_LOG2_E, _LN2, _SQRT_HALF = 1.4426950408889634, 0.6931471805599453, 0.7071067811865476
_LN2_HIGH = 0.693145751953125  # 16 bits of it, so that its products with whole numbers are exact
_LN2_LOW = 1.4286068203094173e-06  # the rest
_POWERS = np.ldexp(1.0, np.arange(-1010, 1011))
_EXP = tuple(1.0 / math.factorial(k) for k in range(14))
_SINE = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(11))
# exp(a^2 / 2) * (1 + a / 4) * P(N < -a) by Chebyshev's polynomials of 2 / (1 + a / 4) - 1, for a >= 0: 1e-14 off
_TAIL = (
    0.24261280114151915, 0.18792720420989265, 0.05554838891881276, 0.012129438315111521, 0.0017314801240606202,
    8.014961859953747e-05, -2.5136847908026683e-05, -4.725842254926752e-06, 2.52589221368666e-07, 1.5363336873494248e-07,
    -8.452550300200214e-10, -5.171627015427795e-09, -2.8206509092360092e-11, 1.9435038072148491e-10, -2.4853560573782737e-12,
    -7.936207369632862e-12, 4.606201718004153e-13, 3.2821540548000704e-13, -4.353839645079299e-14, -1.2268196788785191e-14,
)  # fmt: skip

_MAGIC = np.float32(1.5 * 2**23)  # added to a small number, it leaves it rounded in the last bits
_TWO_LOG2_E, _NINE = np.float32(2.0 * _LOG2_E), np.float32(9.0)
_ONE, _TWO = np.float32(1.0), np.float32(2.0)
_TWO_TO = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(7))  # of 2^f, |f| <= 1/2: 1.2e-7 off


@compiled
def exp(x: float) -> float:
    """Returns e^x; x is clipped to -700 .. 700, so that the result is a normal number."""
    x = min(max(x, -700.0), 700.0)
    n = math.floor(x * _LOG2_E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    value = _EXP[13]
    for k in range(12, -1, -1):
        value = _EXP[k] + r * value
    return value * _POWERS[n + 1010]


@compiled
def log(x: float) -> float:
    """Returns the natural logarithm of a normal x > 0, by `log m = 2 artanh((m - 1) / (m + 1))`."""
    m, n = math.frexp(x)
    if m < _SQRT_HALF:
        m, n = 2.0 * m, n - 1
    s = (m - 1.0) / (m + 1.0)
    value = 1.0 / 23.0
    for k in range(21, 0, -2):
        value = 1.0 / k + s * s * value
    return n * _LN2 + 2.0 * s * value


@compiled
def cosine(turns: float) -> float:
    """Returns `cos(2 pi x)`, as the sine of a quarter turn less |x|."""
    x = 2.0 * math.pi * (0.25 - abs(turns - math.floor(turns + 0.5)))
    value = _SINE[10]
    for k in range(9, -1, -1):
        value = _SINE[k] + x * x * value
    return x * value


@compiled
def exp_each(x: np.ndarray) -> np.ndarray:
    """Returns e^x of each number, see `exp`."""
    y = np.empty_like(x)
    for place, value in np.ndenumerate(x):
        y[place] = exp(value)
    return y


@compiled
def cosine_each(turns: np.ndarray) -> np.ndarray:
    """Returns `cos(2 pi x)` of each number."""
    y = np.empty_like(turns)
    for place, value in np.ndenumerate(turns):
        y[place] = cosine(value)
    return y


@compiled
def tanh(x: float) -> float:
    """Returns the hyperbolic tangent."""
    return 1.0 - 2.0 / (exp(2.0 * x) + 1.0)


@compiled
def normal_cdf(z: float) -> float:
    """Returns the probability of a standard normal number below z."""
    a = abs(z)
    t = 1.0 / (1.0 + 0.25 * a)
    s, last, value = 4.0 * t - 2.0, 0.0, 0.0
    for k in range(19, 0, -1):
        last, value = value, _TAIL[k] + s * value - last
    tail = exp(-0.5 * a * a) * (t * (_TAIL[0] + 0.5 * s * value - last))
    return tail if z < 0.0 else 1.0 - tail


@compiled
def add_product(y: np.ndarray, x: np.ndarray, w: np.ndarray) -> None:
    """Adds `x @ w` to y (n,), one product after another; x (m,), w (m, n)."""
    fours = len(x) // 4 * 4  # that many rows a pass: y is read and written less often, each of its sums stays as it is
    for i in range(0, fours, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        wa, wb, wc, wd = w[i], w[i + 1], w[i + 2], w[i + 3]
        for j in range(len(y)):
            y[j] = y[j] + a * wa[j] + b * wb[j] + c * wc[j] + d * wd[j]
    for i in range(fours, len(x)):
        for j in range(len(y)):
            y[j] += x[i] * w[i, j]


@compiled
def add_products(y: np.ndarray, x: np.ndarray, w: np.ndarray) -> None:
    """Adds `x @ w` to y (rows, n); x (rows, m), w (m, n)."""
    for row in range(len(y)):
        add_product(y[row], x[row], w)


@compiled
def copy(to: np.ndarray, x: np.ndarray) -> None:
    """Copies x (n,); a slice's assignment would compile for seconds."""
    for j in range(len(to)):
        to[j] = x[j]


@compiled
def gate(gated: np.ndarray, y: np.ndarray, rounded: np.ndarray) -> None:
    """Writes `tanh(a) * (1 + tanh(b))`, float32 (C,), of the halves a and b of y (2C,), by one division; y is used up.

    With A = exp(2 a) and B = exp(2 b) it is `2 (A - 1) B / ((A + 1) (B + 1))`. `rounded` (2C,) is room to work in.
    """
    bits, exponents, channels = y.view(np.int32), rounded.view(np.int32), len(gated)
    for j in range(len(y)):
        x = min(max(y[j], -_NINE), _NINE) * _TWO_LOG2_E
        whole = x + _MAGIC
        f = x - (whole - _MAGIC)
        p = _TWO_TO[4] + f * (_TWO_TO[5] + f * _TWO_TO[6])
        y[j] = _TWO_TO[0] + f * (_TWO_TO[1] + f * (_TWO_TO[2] + f * (_TWO_TO[3] + f * p)))
        rounded[j] = whole
    for j in range(len(y)):
        bits[j] += exponents[j] << 23  # times 2^n
    for j in range(channels):
        a, b = y[j], y[channels + j]
        gated[j] = (a - _ONE) * (_TWO * b) / ((a + _ONE) * (b + _ONE))
