"""Stage 2: distillation of a student from a frozen teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavflow.arguments import about, at_least
from wavflow.audio_density import check_pair
from wavflow.losses import ContrastiveDivergence, DensityDistillation
from wavflow.models import fingerprint
from wavflow.training.measures import clamp_fraction, interval, largest, masked_mean, rms
from wavflow.training.task import Batch, OptimizerFactory, Task, seed_of
from wavflow.vocoder import Vocoder


class DistillationTask(Task):
    """Stage 2: a student minimizes `density_weight * KL(student || teacher) + spectral_weight * spectral + ...`.

    The teacher is frozen and no part of this module: neither its weights nor its gradients enter checkpoints, optimizers
    or averages.

    Args:
        net: The student.
        teacher: A trained model that scores in one pass, with the same mel and whitening.
        density: The estimator of the KL.
        spectral: Takes (drawn audio, recording) to a loss; None for none. The audio is equalized first, see `passes`.
        power: The same, for the level, of the draw as it is; None for none.
        contrastive: None for none.
        density_weight: Weight of the KL and its regularizer.
        spectral_weight: Weight of `spectral`.
        power_weight: Weight of `power`.
        contrastive_weight: How strongly the KL to the teacher under *another* mel is made large.
        passes: Of the `MelEqualizer`, before the spectral loss: the nets need not learn what it does.
        optimizer: See `Task`, as are the rest.
    """

    teacher: Vocoder

    def __init__(
        self,
        net: Vocoder,
        teacher: Vocoder,
        density: DensityDistillation,
        optimizer: OptimizerFactory,
        spectral: nn.Module | None = None,
        power: nn.Module | None = None,
        contrastive: ContrastiveDivergence | None = None,
        density_weight: float = 5.0,
        spectral_weight: float = 1.0,
        power_weight: float = 0.5,
        contrastive_weight: float = 0.3,
        passes: int = 1,
        **schedule: Any,
    ) -> None:
        super().__init__(net, optimizer, **schedule)
        check_pair(net, teacher)
        with about("density.form", "form"):
            density.check(net.flow, teacher.flow)
        if not net.mel.n_mels and (spectral is not None or power is not None or contrastive is not None):
            raise ValueError(
                "`spectral`, `power` and `contrastive` hold a draw against the recording of its mel, and must be None "
                "for models without a mel: say spectral=none stage.power=null."
            )
        self.__dict__["teacher"] = teacher.eval().requires_grad_(False)  # not a submodule, see the class
        self.density = density
        self.spectral = spectral
        self.power = power
        self.contrastive = contrastive
        self.density_weight = density_weight
        self.spectral_weight = spectral_weight
        self.power_weight = power_weight
        self.contrastive_weight = contrastive_weight
        at_least(0, passes=passes)
        self.passes = passes
        share_upsampler(net, teacher)

    def on_validation_start(self) -> None:
        self.teacher.to(self.device)

    def on_train_start(self) -> None:
        self.teacher.to(self.device)
        self._fingerprint = fingerprint(self.teacher)

    def on_train_end(self) -> None:
        if fingerprint(self.teacher) != self._fingerprint:
            raise RuntimeError("the frozen teacher's weights changed during distillation: this is a bug, discard the run.")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch of crops, drawn from fresh noise."""
        values, kl = self._values(self._known(batch), self._noise(batch["mel"]))
        half = interval(self._of_all_processes(kl.detach()))
        self._log("train", values | {"kl_interval": half}, len(batch["audio"]), show=("kl", "spectral"))
        return values["loss"]

    def _noise(self, mel: Tensor) -> Tensor:
        """Samples noise, seeded by the number of each crop among all crops: the same whichever process draws it."""
        read = self.trainer.fit_loop.total_batch_idx if self._trainer else 0
        numbers = read * len(mel) + np.arange(len(mel))
        seeds = [seed_of(self.seed, i) for i in (numbers * self._processes + self.global_rank).tolist()]
        like = torch.empty_like(mel[:1], device="cpu")  # one copy to the device, not one for each crop
        return torch.cat([self.net.noise(like, torch.Generator().manual_seed(s)) for s in seeds]).to(mel.device)

    def on_validation_epoch_start(self) -> None:
        self._clip_kl: list[Tensor] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs a draw for a whole held-out clip; the noise of a clip is always the same."""
        generator = torch.Generator().manual_seed(batch_idx * self._processes + self.global_rank)
        values, kl = self._values(batch, self.net.noise(batch["mel"], generator))
        self._clip_kl.append(kl)
        self._log("validation", values, len(batch["audio"]), show=("kl", "spectral"))

    def on_validation_epoch_end(self) -> None:
        """Logs the 95 % interval of the KL over clips."""
        self.log("validation/kl_interval", interval(self._of_all_processes(torch.cat(self._clip_kl))), sync_dist=True)

    def _values(self, batch: Batch, noise: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the loss and its terms, and the KL of each item (B,)."""
        audio, mel, mask, speaker = batch["audio"], batch["mel"], batch["mask"], batch.get("speaker")
        draw = self.net.draw(mel, noise, speaker)
        divergence = self.density(draw, self.net.flow, self.teacher.flow, self.teacher.conditioning(mel, speaker))
        kl = masked_mean(divergence.kl, mask)
        values = {
            "kl": kl,
            "entropy": masked_mean(divergence.entropy, mask),
            "cross_entropy": masked_mean(divergence.cross_entropy, mask),
            "regularizer": masked_mean(divergence.regularizer, mask),
            "clamp_fraction": clamp_fraction(draw.log_scale, mask),
            "largest_log_scale": largest(draw.log_scale, mask),
        }
        loss = self.density_weight * (kl + values["regularizer"])
        drawn, log_det = self.net.unwhiten(draw.u, mel)
        equalized = self.net.equalizer(drawn, mel, self.passes) * mask
        drawn = drawn * mask
        values["rms_ratio"] = rms(drawn) / rms(audio * mask).clamp_min(1e-5)
        audible = {
            "spectral": (self.spectral, equalized, self.spectral_weight),
            "power": (self.power, drawn, self.power_weight),
        }
        for name, (distance, heard, weight) in audible.items():
            if distance is not None:
                values[name] = distance(heard, audio * mask)
                loss = loss + weight * values[name]
        if self.contrastive is not None and len(audio) > 1:
            against = self.contrastive(drawn, draw.log_prob - log_det, mel, self.teacher, speaker)
            values["contrastive"] = masked_mean(against, mask)
            loss = loss - self.contrastive_weight * values["contrastive"]
        values = {name: value.detach() for name, value in values.items()} | {"loss": loss}
        return values, (divergence.kl * mask).sum(dim=1).detach() / mask.sum(dim=1).clamp_min(1.0)


def share_upsampler(student: Vocoder, teacher: Vocoder) -> None:
    """Starts the student's upsampler and speakers from the teacher's, where their shapes agree."""
    for name in ("upsampler", "speakers"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours is None or theirs is None:
            continue
        weights = theirs.state_dict()
        if {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in weights.items()}:
            ours.load_state_dict(weights)
