"""One solver for triangular maps: fixed-point sweeps that are exact after at most T of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What a solver found: the value, its residual (max abs change of the last sweep) and the sweeps it took."""

    value: Tensor
    residual: float
    sweeps: int


class NotConvergedError(RuntimeError):
    """A solver ran out of sweeps before its tolerance."""


def fixed_point(
    update: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = 1e-6, max_sweeps: int | None = None
) -> Solution:
    """Iterates `x <- update(x)` until no element moves by more than `tolerance * (1 + |x|)`.

    For a map that is triangular in time, `update(x)[t]` depends on x[<t] only (or `x + (z - f(x)) / diag J(x)`, whose error at
    t is of second order once x[<t] is right), so sample t is right after t sweeps at the latest, and often after far fewer
    (Jacobi iteration). Values that overflow on the way are put back to the start: they cannot spoil what is before them.

    Args:
        update: One sweep, the same shape in and out; the last dimension is time.
        start: First guess.
        tolerance: Largest change that counts as converged.
        max_sweeps: One more than an item has elements if not given: enough for a map that is triangular in any order.

    Raises:
        NotConvergedError: After `max_sweeps`, with the residual.

    References:
        Song et al., Accelerating feedforward computation via parallel nonlinear equation solving (2021),
        https://arxiv.org/abs/2002.03629; MintNet (Song et al., 2019), section 3.3.
    """
    limit = start[0].numel() + 1 if max_sweeps is None else max_sweeps
    x, residual = start, float("inf")
    for sweep in range(1, limit + 1):
        proposed = update(x)
        finite = torch.isfinite(proposed)
        proposed = torch.where(finite, proposed, start)
        residual = float(((proposed - x).abs() / (1.0 + x.abs())).amax()) if bool(finite.all()) else float("inf")
        x = proposed
        if residual <= tolerance:
            return Solution(x, residual, sweep)
    raise NotConvergedError(
        f"the solver stood at a residual of {residual:.3g} after {limit} sweeps (`tolerance` {tolerance:.3g}): "
        "raise `max_sweeps` or `tolerance`, or sample step by step."
    )
