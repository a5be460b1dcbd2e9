"""An affine map of several channels at once: the step of a student that draws a group of samples together."""

from __future__ import annotations

import torch
from torch import Tensor

from wavflow.arguments import at_least, at_least_float32
from wavflow.flows.elementwise import LOG_SCALE_BOUND, Affine, Bijection


class TriangularAffine(Bijection):
    """`x = L z + loc` over the channels, L lower triangular with a positive diagonal; `Affine` is that of one channel.

        x[0] = scale[0] z[0]                                     + loc[0]
        x[1] = L[1,0] z[0]   + scale[1] z[1]                     + loc[1]
        x[2] = L[2,0] z[0]   + L[2,1] z[1]     + scale[2] z[2]   + loc[2]

    Given z[<c], x[c] has the scale of the diagonal alone, and everything else is its loc. So the density is known channel by
    channel: the log-slopes are those of the diagonal.

    The parameters come as (locs, raw log_scales, rows of L below the diagonal, the shortest first). `n_params` is their number
    at a time step, for all channels together.

    Args:
        channels: C; `n_params` is C (C + 3) / 2.
        bound: Of the log_scales, see `Affine`.
    """

    def __init__(self, channels: int, bound: float = LOG_SCALE_BOUND) -> None:
        at_least(1, channels=channels)
        self.channels = channels
        self.n_params = channels * (channels + 3) // 2
        self.diagonal = Affine(bound)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z by substitution, channel after channel, and -log_scale."""
        loc, log_scale, rows = self._parts(params)
        rest = (x - loc).split(1, dim=1)
        inverse_scales = torch.exp(-log_scale).split(1, dim=1)
        z = rest[0] * inverse_scales[0]
        for row, value, inverse_scale in zip(rows, rest[1:], inverse_scales[1:], strict=True):
            z = torch.cat([z, (value - _product(row, z)) * inverse_scale], dim=1)
        return z, -log_scale

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x, all channels at once, and log_scale."""
        loc, log_scale, rows = self._parts(params)
        below = [torch.zeros_like(loc[:, :1]), *(_product(row, z) for row in rows)]
        return z * torch.exp(log_scale) + loc + torch.cat(below, dim=1), log_scale

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns loc and log_scale (B, C, T), and the rows 1 ... C - 1 of L below the diagonal: row c is (B, c, T)."""
        own, *rows = at_least_float32(params).split([2 * self.channels, *range(1, self.channels)], dim=1)
        return *self.diagonal.loc_and_log_scale(own), rows


def _product(row: Tensor, z: Tensor) -> Tensor:
    """Returns the product (B, 1, T) of a row (B, c, T) with the first c channels of z."""
    return (row * z[:, : row.shape[1]]).sum(dim=1, keepdim=True)
