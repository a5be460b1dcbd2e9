"""Probability density distillation: the reverse KL from a student that draws to a frozen teacher that scores.

`KL(s || t) = E_{u ~ s}[log s(u) - log t(u)]` per sample, gradients through u. Both densities are of the whitened audio u that
teacher and student share: the KL is invariant under a shared invertible map. The student's sample at t, given the noise
before t, is `u[t] = loc[t] + scale[t] * z[t]`; the teacher's density at t sees the path u[<t] in one pass.

Three estimators with one mean, from general to exact:

    path            log s(u) - log t(u) on the path that was drawn; any student, any teacher
    rao_blackwell   entropy of each step in closed form, cross-entropy by N draws u_n[t] ~ q(. | z[<t]) per step from *one*
                    teacher pass
    closed          KL of two Gaussians per step
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wavflow.arguments import at_least
from wavflow.audio_density import Draw
from wavflow.distributions import Gaussian, gaussian_kl
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Flow, Inverse
from wavflow.flows.elementwise import Affine

FORMS = ("closed", "rao_blackwell", "path")


class Divergence(NamedTuple):
    """Reverse KL per sample (B, T), in nats, its parts, and the regularizer that is trained with it but is no part of it."""

    kl: Tensor
    entropy: Tensor
    cross_entropy: Tensor
    regularizer: Tensor


class DensityDistillation(nn.Module):
    """The reverse KL of a student's draw against a frozen teacher.

    Args:
        form: "closed", "rao_blackwell" or "path".
        draws: N of "rao_blackwell".
        regularization: Weight of `(log_scale_teacher - log_scale_student)^2` in "closed", on log-scales that are
            bounded smoothly (see `Affine`), so that its gradient does not end where a clamp would. ClariNet has 4; with
            pulses under the student's noise it outweighs the KL many times over, for then the two scales differ rightly.

    References:
        Parallel WaveNet (van den Oord et al., 2017), section 4, eq. 4 to 7; ClariNet (Ping et al., 2018), eq. 6 and 7.
    """

    def __init__(self, form: str = "closed", draws: int = 16, regularization: float = 0.0) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}.")
        at_least(1, draws=draws)
        self.form = form
        self.draws = draws
        self.regularization = regularization

    def check(self, student: Flow, teacher: Flow) -> None:
        """Raises ValueError where this form cannot be used for a pair, and names one that can."""
        if self.form == "path":
            return
        steps = student.transform.transforms if isinstance(student.transform, Chain) else [student.transform]
        if not all(isinstance(step, Inverse) and isinstance(step.transform, Autoregressive) for step in steps):
            raise ValueError(f"`form` {self.form!r} needs a student of inverse autoregressive flows: use 'path'.")
        if not isinstance(teacher.transform, Autoregressive) or teacher.transform.group > 1:
            raise ValueError(
                f"`form` {self.form!r} needs a teacher that is, sample by sample, one autoregressive map: use 'path'."
            )
        gaussian = isinstance(student.base, Gaussian) and isinstance(teacher.base, Gaussian)
        if self.form == "closed" and not (gaussian and isinstance(teacher.transform.tau, Affine)):
            raise ValueError("`form` 'closed' needs a Gaussian student and a Gaussian teacher: use 'rao_blackwell'.")

    def forward(self, draw: Draw, student: Flow, teacher: Flow, cond: Any = None) -> Divergence:
        """Returns the divergence of a draw (see `Vocoder.draw`); `cond` is the teacher's conditioning."""
        return getattr(self, f"_{self.form}")(draw, student, teacher, cond)

    def _path(self, draw: Draw, student: Flow, teacher: Flow, cond: Any) -> Divergence:
        cross_entropy = -teacher.log_prob(draw.u, cond)
        return Divergence(cross_entropy + draw.log_prob, -draw.log_prob, cross_entropy, torch.zeros_like(cross_entropy))

    def _rao_blackwell(self, draw: Draw, student: Flow, teacher: Flow, cond: Any) -> Divergence:
        entropy = student.base.entropy() + draw.log_scale
        transform: Any = teacher.transform  # an `Autoregressive`, see `check`
        params = transform.params(draw.u, cond)
        scale = draw.log_scale.exp().unsqueeze(1)
        loc = draw.u - scale * draw.z
        cross_entropy = torch.zeros_like(entropy)
        for _ in range(self.draws):
            u = loc + scale * student.base.standard_noise(draw.u.shape, dtype=draw.u.dtype, device=draw.u.device)
            z, log_slope = transform.tau.forward(u, params)
            cross_entropy = cross_entropy - (teacher.base.log_prob(z) + log_slope).sum(dim=1) / self.draws
        return Divergence(cross_entropy - entropy, entropy, cross_entropy, torch.zeros_like(entropy))

    def _closed(self, draw: Draw, student: Flow, teacher: Flow, cond: Any) -> Divergence:
        q_log_scale = draw.log_scale.unsqueeze(1)
        q = Gaussian(draw.u - q_log_scale.exp() * draw.z, q_log_scale)
        transform: Any = teacher.transform  # an `Autoregressive` with `Affine`, see `check`
        p = Gaussian(*transform.tau.loc_and_log_scale(transform.params(draw.u, cond)))
        kl = gaussian_kl(q, p).sum(dim=1)
        entropy = q.entropy().sum(dim=1)
        regularizer = self.regularization * (p.log_scale - q.log_scale).square().sum(dim=1)
        return Divergence(kl, entropy, entropy + kl, regularizer)


class ContrastiveDivergence(nn.Module):
    """The KL of a draw to the teacher conditioned on *another* item's mel, to be made large: weight it negatively.

    The other mel whitens differently, so this is computed on the audio itself, by the path estimator.

    References:
        Parallel WaveNet (van den Oord et al., 2017), section 4.3, eq. 10 (there with weight 0.3).
    """

    def forward(self, audio: Tensor, log_prob: Tensor, mel: Tensor, teacher: Any, speaker: Tensor | None = None) -> Tensor:
        """Returns the divergence (B, T) of audio (B, T) drawn with density `log_prob` (B, T) for the mel of its own item."""
        if mel.shape[0] < 2:
            raise ValueError("`mel`: the contrastive loss needs at least 2 items in a batch, got 1: raise `batch_size`.")
        return log_prob - teacher.log_prob(audio, mel.roll(1, dims=0), speaker if speaker is None else speaker.roll(1, dims=0))
