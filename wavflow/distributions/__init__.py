"""Elementwise densities for autoregressive audio models.

Every density has the same few methods, and all of them are logarithms, because a vocoder meets both tails: an untrained
net puts its `loc` hundreds of scales away from the sample, and a probability that underflows there takes its gradient
with it. Both `log_cdf` and `log_sf` (survival, `1 - cdf`) are offered, since the logarithm of the larger of the two has
rounded to 0 long before. `quantile` takes both for the same reason: it reads the smaller one.

Parameters are tensors that broadcast against `x`; a mixture has its K components in one more, last dimension. All is
computed in float32 at least. First derivatives are exact, also those of `quantile`; its second ones are not.
"""

from wavflow.distributions.base import Distribution, Gaussian, LocationScale, Logistic, gaussian_kl, inverse_cdf
from wavflow.distributions.discretized import Discretized
from wavflow.distributions.mixture import Mixture

__all__ = [
    "Discretized",
    "Distribution",
    "Gaussian",
    "LocationScale",
    "Logistic",
    "Mixture",
    "gaussian_kl",
    "inverse_cdf",
]
