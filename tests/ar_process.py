"""Gaussian autoregressive processes as flows: teachers and students whose every answer is known."""

import math

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor, nn

from wavflow.audio_density import Draw
from wavflow.distributions import Gaussian
from wavflow.flows import Affine, Autoregressive, Chain, Flow, Inverse, Inverted
from wavflow.flows.elementwise import LOG_SCALE_BOUND
from wavflow.nn import WaveNet

# x[t] = 2 r cos(w) x[t-1] - r^2 x[t-2] + SCALE z[t]: a resonance whose impulse response rings for some 30 samples.
COEFFICIENTS = (2 * 0.85 * math.cos(0.7), -(0.85**2))
SCALE = 0.6
ENTROPY_RATE = 0.5 * math.log(2 * math.pi * math.e * SCALE**2)


class LinearConditioner(nn.Module):
    """A conditioner with `loc[t] = sum_k coefficients[k-1] y[t-k]` and one log_scale for all t.

    Of y = x it makes an AR process (MAF), of y = z its impulse response (IAF).
    """

    def __init__(self, coefficients: Tensor, scale: float) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients.clone())
        self.raw = LOG_SCALE_BOUND * math.atanh(math.log(scale) / LOG_SCALE_BOUND)  # `Affine` bounds it by a tanh

    def forward(self, y: Tensor, cond: None = None) -> Tensor:
        """Returns (B, 2, T) for y (B, 1, T), which comes delayed by one sample already."""
        kernel = self.coefficients.to(y).flip(0).reshape(1, 1, -1)
        loc = nn.functional.conv1d(nn.functional.pad(y, (len(self.coefficients) - 1, 0)), kernel)
        return torch.cat([loc, torch.full_like(loc, self.raw)], dim=1)

    def stepper(self, cond: None = None, batch: int = 1):
        past = torch.zeros(batch, len(self.coefficients))

        def step(y: Tensor) -> Tensor:
            nonlocal past
            past = torch.cat([y, past[:, :-1]], dim=1)
            loc = (past * self.coefficients).sum(dim=1, keepdim=True)
            return torch.cat([loc, torch.full_like(loc, self.raw)], dim=1)

        return step


def ar_teacher(coefficients: tuple[float, ...] = COEFFICIENTS, scale: float = SCALE) -> Flow:
    return Flow(Autoregressive(Affine(), LinearConditioner(torch.tensor(coefficients), scale)), Gaussian())


def ar_student(taps: Tensor, scale: float = SCALE) -> Flow:
    """The student `x[t] = scale * z[t] + sum_k taps[k-1] z[t-k]`."""
    return Flow(Chain([Inverse(Autoregressive(Inverted(Affine()), LinearConditioner(taps, scale)))]), Gaussian())


def ar_filter(z: np.ndarray) -> np.ndarray:
    """Runs noise through the AR process along the last axis, by another's hand."""
    return lfilter([SCALE], [1.0, *(-a for a in COEFFICIENTS)], z)


def impulse_response(length: int) -> Tensor:
    return torch.from_numpy(ar_filter(np.eye(1, length)[0])).to(torch.get_default_dtype())


def iaf(flows: int, **arguments: int) -> Flow:
    """A student with a WaveNet in each of its flows; the identity, until it is trained."""
    maps = [Inverse(Autoregressive(Inverted(Affine()), WaveNet(out_channels=2, **arguments))) for _ in range(flows)]
    return Flow(Chain(maps), Gaussian())


def draw(student: Flow, z: Tensor, cond: Tensor | None = None) -> Draw:
    """What `Vocoder.draw` returns, for a bare flow."""
    u, log_prob, log_scale = student.sample_and_log_prob(z, cond)
    return Draw(u, z, log_prob, log_scale)


def measured_impulse_response(student: Flow, length: int, batch: int = 64) -> Tensor:
    """The mean of dx[t] / dz[t - n] over random z, for n from 0 to length - 1."""
    z = torch.randn(batch, 1, 2 * length, requires_grad=True)
    (gradient,) = torch.autograd.grad(student.sample(z)[..., -1].sum(), z)
    return gradient.mean(dim=(0, 1)).flip(0)[:length]
