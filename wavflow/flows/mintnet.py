"""MintNet: invertible layers of masked convolutions, with a triangular Jacobian of positive diagonal.

The C * T elements of x are one sequence, in the order of time and, within a time step, of channels. Nothing that a layer
computes at an element sees a later one, hence the triangle. An element sees itself through positive weights and increasing
activations alone, hence the positive diagonal: all the rest is as free as in any other net.

    time        t-1     t
    channel    0 1 2  0 1 2
                x x x  x o      x: any weight; o: positive weight; the output is at channel 1 of time t

A vector of D features is C = D, T = 1, with `kernel_size` 1; audio is C = 1, with as many taps as wanted.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavflow.arguments import at_least, at_least_float32
from wavflow.flows.base import Transform, check_channels
from wavflow.flows.solver import Solution, fixed_point
from wavflow.nn.containers import module_list


class TriangularConv(nn.Module):
    """Convolution whose output at an element sees the elements before it by `past`, and itself by `own` > 0.

    Args:
        channels: C of the sequence.
        inputs: Feature maps that come in; every element has one value in each.
        outputs: Feature maps that go out.
        kernel_size: Taps in time, of which the last one is the present.
        std: Standard deviation that the `past` weights give to the output of unit inputs, at the start.
    """

    def __init__(self, channels: int, inputs: int, outputs: int, kernel_size: int, std: float = 1.0) -> None:
        super().__init__()
        fan_in = max(1, channels * inputs * kernel_size - inputs)
        self.weight = nn.Parameter(std * fan_in**-0.5 * torch.randn(channels, outputs, channels, inputs, kernel_size))
        self.bias = nn.Parameter(std * torch.randn(channels, outputs, 1))
        self.raw_own = nn.Parameter(torch.randn(channels, outputs, inputs))
        mask = torch.ones(channels, channels, kernel_size)
        mask[..., -1] = mask[..., -1].tril(diagonal=-1)
        self.mask = nn.Buffer(mask[:, None, :, None], persistent=False)

    def past(self, x: Tensor) -> Tensor:
        """Returns what the elements before give to each one, bias included: (B, C, I, T) to (B, C, O, T)."""
        channels, outputs, _, inputs, taps = self.weight.shape
        weight = (self.weight * self.mask).reshape(channels * outputs, channels * inputs, taps)
        y = F.conv1d(F.pad(x.flatten(1, 2), (taps - 1, 0)), weight)
        return y.unflatten(1, (channels, outputs)) + self.bias

    def own(self, x: Tensor) -> Tensor:
        """Returns what each element gives to itself, by positive weights: (B, C, I, T) to (B, C, O, T)."""
        return torch.einsum("coi,bcit->bcot", F.softplus(self.raw_own) / self.raw_own.shape[-1], x)


class MintLayer(Transform):
    """`z = scale * x + conv3(h(conv2(h(conv1(x)))))`, each `conv` triangular: lower, or upper if turned round.

    The activation is `h(u) = softplus(2 u) - log 2` in one half of the feature maps and its mirror image, -h(-u), in the
    other: increasing, smooth, and linear on one side. The paper leaves the signs of the diagonals free as long as their
    product is positive; a sign pulled through the activation is that mirror image. The paper takes ELU; here softplus, which
    has no kink in its slope for Newton's method to stumble over, and which learns faster.

    The log-derivative comes from the diagonal alone. The inverse has no closed form: `solve` sweeps over the sequence, and
    each sweep solves every element for itself, with the others held fixed. That scalar function is increasing with a slope
    of at least `scale`, which brackets its root, so the i-th element is right after i sweeps, whatever the weights; plain
    diagonal Newton steps, `x + (z - f(x)) / f'(x)`, overshoot where the slope changes, and may cycle.
    `inverse` has gradients, by the implicit function theorem, of first order.

    Args:
        channels: C of x.
        hidden: Feature maps of each element inside.
        kernel_size: Taps in time of each of the three convolutions.
        upper: Reverses time and channels: an element sees what comes after it.

    Raises:
        ValueError: If a size is not positive.

    References:
        MintNet (Song et al., 2019), sections 3.1 to 3.3, https://arxiv.org/abs/1907.07945
    """

    def __init__(self, channels: int, hidden: int = 16, kernel_size: int = 1, upper: bool = False) -> None:
        super().__init__()
        at_least(1, channels=channels, hidden=hidden, kernel_size=kernel_size)
        self.channels = channels
        self.upper = upper
        self.convs = module_list(
            [
                TriangularConv(channels, 1, hidden, kernel_size),
                TriangularConv(channels, hidden, hidden, kernel_size),
                TriangularConv(channels, hidden, 1, kernel_size, std=0.0),  # nothing of the past at the start
            ]
        )
        self.log_scale = nn.Parameter(torch.full((channels, 1), math.log(0.5)))
        self.mirror = nn.Buffer(1.0 - 2.0 * (torch.arange(hidden)[:, None] % 2), persistent=False)

    def context_of(self, direction: str) -> tuple[float, float]:
        """Forward sees as far as its three convolutions; the inverse all that comes before it, or after if upper."""
        reach = sum(conv.weight.shape[-1] - 1 for conv in self.convs) if direction == "forward" else math.inf
        return (0, reach) if self.upper else (reach, 0)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns z (B, C, T) and log |dz/dx| (B, T), in one pass."""
        z, slope, _ = self._lower(self._turned(check_channels(x, self.channels)))
        return self._turned(z), self._turned(slope).log().sum(dim=1)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns x (B, C, T) and log |dx/dz| (B, T), by `solve`.

        Raises:
            NotConvergedError: If the sweeps did not settle.
            ValueError: If z is not finite.
        """
        x = self.solve(z).value
        if torch.is_grad_enabled():
            x = self._with_gradient(x, z)
        return x, -self(x)[1]

    @torch.no_grad()
    def solve(self, z: Tensor, tolerance: float | None = None, max_sweeps: int | None = None) -> Solution:
        """Inverts by parallel sweeps; exact after at most C * T of them, and often after far fewer.

        Args:
            z: (B, C, T).
            tolerance: Of `fixed_point`; by default `eps ** 0.75` of the dtype, 2e-12 in float64 and 6e-6 in float32.
            max_sweeps: C * T + 1 if not given.

        Raises:
            NotConvergedError: When `max_sweeps` were not enough.
            ValueError: If z is not finite.
        """
        goal = self._turned(at_least_float32(check_channels(z, self.channels)))
        finite = goal.isfinite()
        if not finite.all():
            raise ValueError(f"`z` must be finite, got {int((~finite).sum())} of {z.numel()} values that are not: clean it.")
        tolerance = _tolerance(goal) if tolerance is None else tolerance
        solution = fixed_point(lambda x: self._solve_elements(x, goal), goal, tolerance, max_sweeps)
        return solution._replace(value=self._turned(solution.value))

    def _lower(self, x: Tensor, pasts: list[Tensor] | None = None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns z and dz[i]/dx[i] of the lower layer, and what the `past` gave to each of its convolutions.

        With `pasts` given, this is a function of each element alone: the others stay as they were when `pasts` arose.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            u, slope, seen = x.unsqueeze(2), torch.ones_like(x).unsqueeze(2), []
            for i, conv in enumerate(self.convs):
                if i > 0:
                    u = 2.0 * self.mirror * u
                    slope = slope * 2.0 * torch.sigmoid(u)
                    u = self.mirror * (F.softplus(u) - math.log(2.0))
                seen.append(conv.past(u) if pasts is None else pasts[i])
                u, slope = seen[-1] + conv.own(u), conv.own(slope)
            scale = torch.exp(self.log_scale)
            return scale * x + u.squeeze(2), scale + slope.squeeze(2), seen

    def _solve_elements(self, x: Tensor, goal: Tensor, max_steps: int = 100) -> Tensor:
        """One sweep: solves each element with the others held as they are in x, by Newton's method in a bracket.

        A step that leaves the bracket, or is not half as long as the last but one, is a bisection instead.
        """
        z, slope, pasts = self._lower(x)
        error, eps = goal - z, torch.finfo(x.dtype).eps
        far = x + error * torch.exp(-self.log_scale)  # the slope is `scale` at least: the root lies between x and here
        low, high = torch.minimum(x, far), torch.maximum(x, far)
        stride = before = 2 * (high - low)
        for _ in range(max_steps):
            newton = error / slope
            fits = (x + newton >= low) & (x + newton <= high) & (2 * newton.abs() <= before)
            step = torch.where(fits, newton, (low + high) / 2 - x)
            x, before, stride = x + step, stride, step.abs()
            near = torch.where(fits, eps**0.6, 4 * eps)  # a Newton step squares the error: such a short one was the last
            if bool((stride <= near * (1 + x.abs())).all()):
                break
            z, slope, _ = self._lower(x, pasts)
            error = goal - z
            low, high = torch.where(error > 0, x, low), torch.where(error > 0, high, x)
        return x

    def _with_gradient(self, x: Tensor, z: Tensor) -> Tensor:
        """Gives x, which solves z = f(x), its gradient: `dx = J^-1 (dz - df)`, f's own change being that by its weights."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value, slope, _ = self._lower(self._turned(leaf))
            value, slope = self._turned(value), self._turned(slope).detach()
            error = z - self(x.detach())[0]

        def through_inverse(gradient: Tensor) -> Tensor:
            def sweep(v: Tensor) -> Tensor:
                (product,) = torch.autograd.grad(value, leaf, v, retain_graph=True)
                return v + (gradient - product) / slope  # J' is triangular as well: exact after C * T sweeps

            return fixed_point(sweep, gradient / slope, _tolerance(gradient)).value

        if error.requires_grad:
            error.register_hook(through_inverse)
        return x.detach() + (error - error.detach())

    def _turned(self, x: Tensor) -> Tensor:
        return x.flip(1, 2) if self.upper else x


def _tolerance(x: Tensor) -> float:
    """Returns the largest relative change that the sweeps may end with: above rounding, below what matters."""
    return torch.finfo(x.dtype).eps ** 0.75
