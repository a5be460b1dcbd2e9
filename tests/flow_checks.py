"""Checks of a transform, of a flow's density, or of a graph, that several tests share."""

from collections.abc import Callable
from typing import Any

import torch
from helpers import jacobian
from torch import Tensor

from wavflow.flows import Affine, Flow, Transform


class WrongSign(Affine):
    """States `+log_scale` where `-log_scale` belongs."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = super().forward(x, params)
        return z, -log_slope


def assert_round_trip(
    transform: Transform, x: Tensor, cond: Tensor | None = None, least: float = 0.1, atol: float = 1e-9
) -> None:
    """Forward then inverse, and inverse then forward, give x (B, C, T) back and opposite log-derivatives.

    Some x must change by more than `least`.
    """
    for there, back in ((transform, transform.inverse), (transform.inverse, transform)):
        y, log_det = there(x, cond)
        again, log_det_back = back(y, cond)
        assert (y - x).abs().max() > least, "the identity would prove nothing"
        torch.testing.assert_close(again, x, rtol=0, atol=atol)
        torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=atol)


def assert_total_log_det_is_exact(transform: Transform, x: Tensor, cond: Tensor | None = None) -> None:
    """Both directions' log_det, summed over time, is that of the whole Jacobian at x (1, C, T), whatever its shape."""
    for direction in (transform, transform.inverse):
        matrix = jacobian(lambda x, direction=direction: direction(x, cond)[0], x).reshape(x.numel(), x.numel())
        total = direction(x, cond)[1].sum()
        torch.testing.assert_close(total, torch.linalg.slogdet(matrix).logabsdet, rtol=0, atol=1e-10)


def assert_one_graph(function: Callable, *arguments: Any, backend: str = "aot_eager") -> None:
    """Holds that torch compiles a function as one graph, and that the graph returns what the function returns."""
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*arguments), function(*arguments), rtol=0, atol=1e-6)


def assert_density_of_two_features_integrates_to_one(flow: Flow, cond: Tensor | None = None) -> None:
    """A sum over a fine grid: as good as any quadrature for a smooth density."""
    axis = torch.linspace(-30.0, 30.0, 401)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(-1)
    with torch.no_grad():
        log_prob = flow.log_prob(grid, None if cond is None else cond.expand(len(grid), -1, -1))
    mass = log_prob.exp().sum() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-3)
