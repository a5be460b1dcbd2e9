"""Linear mixing of the channels, the same at all times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.arguments import at_least, at_least_float32
from wavflow.flows.base import Transform, check_channels, log_det_of_identity


class Permutation(Transform):
    """Channels in another order: `z[c] = x[index[c]]`; log_det is 0.

    Args:
        index: A permutation of 0 .. C - 1.
    """

    def __init__(self, index: list[int]) -> None:
        super().__init__()
        if sorted(index) != list(range(len(index))):
            raise ValueError(f"`index` must hold each of 0 .. {len(index) - 1} once, got {index}.")
        self.index = nn.Buffer(torch.tensor(index), persistent=False)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return check_channels(x, len(self.index))[:, self.index], log_det_of_identity(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return check_channels(z, len(self.index))[:, self.index.argsort()], log_det_of_identity(z)


class Reverse(Transform):
    """Channels in reversed order; log_det is 0. Stands between the layers of a MAF."""

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return x.flip(1), log_det_of_identity(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.forward(z)


class InvertibleLinear(Transform):
    """Trainable 1x1 mixing `z = W x` with `W = L (U + diag(s))`: starts as a random rotation.

    L is unit lower triangular, U strictly upper triangular; both lie in one matrix, as LAPACK keeps them, with log |s| on its
    diagonal. `log_det = sum log |s|` costs nothing, W can't become singular, and the inverse solves two triangular systems
    from the weights as they are, so no stored inverse can be stale.

    Args:
        channels: C.

    References:
        Glow (Kingma & Dhariwal, 2018), section 3.2, https://arxiv.org/abs/1807.03039. There a fixed permutation P stands
        before L; here not, since the random rotation P L U with other rows first, L U, is a random rotation as well.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
        _, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        factors = lower.tril(-1) + upper.triu(1) + s.abs().log().diag()
        self.factors = nn.Parameter(factors.to(torch.get_default_dtype()))
        self.sign = nn.Buffer(s.sign().to(torch.get_default_dtype()))  # fixed: either sign of the determinant will do

    @property
    def weight(self) -> Tensor:
        """W, (C, C)."""
        lower, upper = self._triangles()
        return lower @ upper

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns z (B, C, T) and log |det W| at each time step (B, T)."""
        with _exact(x):
            return _mix(self.weight, x), log_det_of_identity(x) + self.factors.diagonal().sum()

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns x (B, C, T) and -log |det W| at each time step (B, T)."""
        lower, upper = self._triangles()
        columns = at_least_float32(check_channels(z, self.channels)).transpose(0, 1)  # one system for all items and times
        y = torch.linalg.solve_triangular(lower, columns.flatten(1), upper=False, unitriangular=True)
        y = torch.linalg.solve_triangular(upper, y, upper=True)
        return y.view_as(columns).transpose(0, 1), log_det_of_identity(z) - self.factors.diagonal().sum()

    def _triangles(self) -> tuple[Tensor, Tensor]:
        """Returns L and U + diag(s), both (C, C)."""
        factors = at_least_float32(self.factors)
        identity = torch.eye(self.channels, dtype=factors.dtype, device=factors.device)
        s = self.sign * torch.exp(factors.diagonal())
        return factors.tril(-1) + identity, factors.triu(1) + s.diag()


class Householder(Transform):
    """Trainable rotation, the product of reflections `x - 2 v (v . x) / |v|^2`: orthogonal, so log_det is exactly 0.

    Args:
        channels: C.
        n_reflections: C of them reach every orthogonal matrix of one sign of the determinant; the start is random.

    References:
        Tomczak & Welling, Improving variational auto-encoders using Householder flow (2016),
        https://arxiv.org/abs/1611.09630
    """

    def __init__(self, channels: int, n_reflections: int) -> None:
        super().__init__()
        at_least(1, n_reflections=n_reflections)
        self.vectors = nn.Parameter(torch.randn(n_reflections, channels))

    @property
    def weight(self) -> Tensor:
        """The orthogonal matrix (C, C)."""
        # Brought to unit size before the norm, whose squares would underflow. A zero vector reflects nothing.
        size = self.vectors.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(self.vectors.dtype).tiny)
        weight = torch.eye(self.vectors.shape[1], dtype=self.vectors.dtype, device=self.vectors.device)
        for v in functional.normalize(self.vectors / size, dim=1).unbind():
            weight = weight - 2.0 * torch.outer(v, v @ weight)
        return weight

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        with _exact(x):
            return _mix(self.weight, x), log_det_of_identity(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        with _exact(z):
            return _mix(self.weight.T, z), log_det_of_identity(z)


def _mix(weight: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ij,bjt->bit", at_least_float32(weight), at_least_float32(check_channels(x, weight.shape[1])))


def _exact(x: Tensor) -> torch.autocast:
    """Switches autocast off: a rounded product would not be undone by the inverse."""
    return torch.autocast(x.device.type, enabled=False)
