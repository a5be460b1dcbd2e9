"""Elementwise bijections with parameters from elsewhere: the `tau` of an autoregressive or coupling map.

Each maps x (B, C, T) with parameters (B, n_params * C, T) to z and the elementwise log-slope log |dz/dx| (B, C, T). They own
no weights; a conditioner gives the parameters, or a layer its own. All parameters 0 is a sensible start for each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavflow.arguments import at_least, at_least_float32
from wavflow.distributions import Distribution, Gaussian, Logistic, Mixture

LOG_SCALE_BOUND = 9.0  # nats; theory: a floor of -9 never binds on 16-bit audio, see `Affine`


class Bijection:
    """The contract of an elementwise bijection; `n_params` parameters per element."""

    n_params: int

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and log |dz/dx|, both (B, C, T)."""
        raise NotImplementedError

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and log |dx/dz|, both (B, C, T)."""
        raise NotImplementedError


class Shift(Bijection):
    """`z = x - loc`, volume-preserving (NICE)."""

    n_params = 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and zeros."""
        return x - params, torch.zeros_like(at_least_float32(x))

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and zeros."""
        return z + params, torch.zeros_like(at_least_float32(z))


class Affine(Bijection):
    """`z = (x - loc) / scale`: whitens x by a predicted loc and scale (MAF, Real-NVP).

    log_scale is bounded smoothly, `bound * tanh(raw / bound)`: a hard clamp would have no gradient just where it is needed.
    The parameters come as (loc, raw log_scale).
    """

    n_params = 2

    def __init__(self, bound: float = LOG_SCALE_BOUND) -> None:
        self.bound = bound

    def loc_and_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns loc and the bounded log_scale, both (B, C, T)."""
        loc, raw = at_least_float32(params).chunk(2, dim=1)
        return loc, self.bound * torch.tanh(raw / self.bound)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and -log_scale."""
        loc, log_scale = self.loc_and_log_scale(params)
        return (x - loc) * torch.exp(-log_scale), -log_scale

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and log_scale."""
        loc, log_scale = self.loc_and_log_scale(params)
        return z * torch.exp(log_scale) + loc, log_scale


class Inverted(Bijection):
    """A bijection turned round. `Inverted(Affine())` is `z * scale + loc`, the step of an IAF."""

    def __init__(self, bijection: Bijection) -> None:
        self.bijection = bijection
        self.n_params = bijection.n_params

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the wrapped bijection's inverse."""
        return self.bijection.inverse(x, params)

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the wrapped bijection's forward."""
        return self.bijection.forward(z, params)


class MixtureCDF(Bijection):
    """`z = base^-1(F(x))` with F the CDF of a predicted mixture: x is then mixture-distributed where z follows the base.

    The inverse-CDF trick of inverse transform sampling as a bijection. Both tails are kept as logarithms, so that nothing
    saturates.
    The parameters come as (logits, locs, raw log_scales), each of n_components.

    Args:
        component: `Gaussian` or `Logistic`.
        base: The base density of z.
        n_components: K. Locs start spread over [-2, 2]: equal components would never part.

    References:
        Flow++ (Ho et al., 2019), section 3.2, https://arxiv.org/abs/1902.00275; PixelCNN++ (Salimans et al., 2017).
    """

    def __init__(self, component: type[Gaussian] | type[Logistic], base: Distribution, n_components: int = 10) -> None:
        at_least(1, n_components=n_components)
        self.component = component
        self.base = base
        self.n_components = n_components
        self.n_params = 3 * n_components
        self.bound = LOG_SCALE_BOUND

    def mixture(self, params: Tensor) -> Mixture:
        """Returns the predicted mixture of params (B, 3 * K * C, T), elementwise over (B, C, T)."""
        batch, _, time = params.shape
        params = at_least_float32(params).reshape(batch, 3, self.n_components, -1, time).permute(1, 0, 3, 4, 2)
        logits, loc, raw = params
        return Mixture(self.component, logits, loc + self._spread(loc), self.bound * torch.tanh(raw / self.bound))

    def params_of(self, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Undoes `mixture`: the parameters (B, 3 * K * C, T) of components (B, C, T, K).

        Raises:
            ValueError: Where a log_scale is out of bounds, or not a number.
        """
        if not (log_scale.abs() < self.bound).all():
            low, high = log_scale.aminmax()
            raise ValueError(
                f"`log_scale` must lie within +-{self.bound:g} nats, got values from {low:.3g} to {high:.3g}: rescale the data."
            )
        raw = self.bound * torch.atanh(log_scale / self.bound)
        params = torch.stack(torch.broadcast_tensors(logits, loc - self._spread(loc), raw))
        return params.permute(1, 0, 4, 2, 3).flatten(1, 3)

    def _spread(self, like: Tensor) -> Tensor:
        return torch.linspace(-2.0, 2.0, self.n_components, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and the log-slope `log F'(x) - log base(z)`."""
        mixture, x = self.mixture(params), at_least_float32(x)
        z = self.base.quantile(mixture.log_cdf(x), mixture.log_sf(x))
        return z, mixture.log_prob(x) - self.base.log_prob(z)

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x by solving F(x) = base CDF(z), and its log-slope."""
        mixture, z = self.mixture(params), at_least_float32(z)
        x = mixture.quantile(self.base.log_cdf(z), self.base.log_sf(z))
        return x, self.base.log_prob(z) - mixture.log_prob(x)
