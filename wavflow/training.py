"""The two stages as Lightning modules: maximum likelihood, and distillation from a frozen teacher."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from wavflow.arguments import about, at_least
from wavflow.flows.elementwise import LOG_SCALE_BOUND
from wavflow.losses import ContrastiveDivergence, DensityDistillation
from wavflow.vocoder import Vocoder, check_pair

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Batch = dict[str, Any]


class Task(pl.LightningModule):
    """What both stages share: a net, its optimizer, and a learning rate that decays to the end of the budget.

    Args:
        net: The model to train.
        optimizer: Makes the optimizer from the parameters.
        warmup_steps: Linear rise of the learning rate.
        final_fraction: Of the learning rate, at the end of the cosine decay.
        seed: Of what is drawn in the steps.
    """

    def __init__(
        self,
        net: Vocoder,
        optimizer: OptimizerFactory,
        warmup_steps: int = 100,
        final_fraction: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.seed = seed

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes what a step draws a function of seed, process and batch alone: a resumed training draws the same."""
        torch.manual_seed(_seed(self.seed, self.global_rank, self.trainer.fit_loop.total_batch_idx))

    def configure_optimizers(self) -> dict[str, Any]:
        """Returns Adam or what the configuration names, with warm-up and decay per step."""
        optimizer = self.optimizer(self.net.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lets a resumed training go on with the optimizer's settings of now, at the place of the schedule where it was."""
        (fresh,) = self.optimizer(self.net.parameters()).param_groups
        settings = {name: value for name, value in fresh.items() if name != "params"}
        for state, schedule in zip(checkpoint["optimizer_states"], checkpoint["lr_schedulers"], strict=True):
            for group, before in zip(state["param_groups"], schedule["base_lrs"], strict=True):
                factor = group["lr"] / before if before else 1.0
                group.update(settings | {"lr": factor * fresh["lr"], "initial_lr": fresh["lr"]})
            schedule["base_lrs"] = [fresh["lr"]] * len(schedule["base_lrs"])

    def _learning_rate_factor(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, self._spent(step))))
        return warmup * (self.final_fraction + (1.0 - self.final_fraction) * cosine)

    def _spent(self, step: int) -> float:
        """Share of the budget that is spent: of `max_steps` or of `max_time`, whichever is nearer its end."""
        trainer, spent = self.trainer, 0.0
        if trainer.max_steps > 0:
            spent = step / trainer.max_steps
        for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):
            remaining = timer.time_remaining()
            if remaining is not None:
                elapsed = timer.time_elapsed()
                spent = max(spent, elapsed / (elapsed + remaining) if elapsed + remaining > 0 else 1.0)
        return spent

    def _known(self, batch: Batch) -> Batch:
        """Masks a crop's first samples: the whitening would need what was before them, and takes zeros instead.

        Raises:
            ValueError: Where no sample is left.
        """
        mask = batch["mask"].clone()
        past = 0 if self.net.whitening is None else int(self.net.whitening.context_of("forward")[0])
        if past >= mask.shape[1]:
            raise ValueError(
                f"`data.segment_length` must be above {past}, the samples that the whitening looks back, got {mask.shape[1]}: "
                "take longer crops."
            )
        mask[:, :past] = 0.0
        return batch | {"mask": mask}

    def _log(self, stage: str, values: dict[str, Tensor], batch_size: int, show: tuple[str, ...]) -> None:
        weight = batch_size * self._processes  # Lightning cuts the mean of the processes' weights to whole numbers
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name in show, batch_size=weight, sync_dist=True)

    def _of_all_processes(self, values: Tensor) -> Tensor:
        """Returns the values (N, ...) of all processes, one behind the other; N may differ among them."""
        return torch.cat(gather_all_tensors(values)) if self._processes > 1 else values

    @property
    def _processes(self) -> int:
        return self._trainer.world_size if self._trainer else 1  # a benchmark has no Trainer


class LikelihoodTask(Task):
    """Stage 1: minimizes the mean negative log-likelihood, in nats per sample."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Lets the maps that start from data do so, with the first batch; in a resumed run they have."""
        super().on_train_batch_start(batch, batch_idx)
        if self.trainer.global_step > 0:
            return
        batch = {name: self._of_all_processes(value) for name, value in batch.items() if name != "name"}
        with torch.no_grad():
            u, _ = self.net.whiten(batch["audio"], batch["mel"])
            u = u * self._known(batch)["mask"].unsqueeze(1)
            self.net.flow.initialize(u, self.net.conditioning(batch["mel"], batch.get("speaker")))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch of crops."""
        values = self._values(self._known(batch))
        self._log("train", values, len(batch["audio"]), show=("nats",))
        return values["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs the likelihood of a whole held-out clip."""
        values = self._values(batch)
        if batch_idx == 0:
            values["round_trip"] = self._round_trip_error(batch)
        self._log("validation", values, len(batch["audio"]), show=("nats",))

    def _round_trip_error(self, batch: Batch) -> Tensor:
        """Largest error of u -> z -> u in float32, over one frame where the way back is sample by sample."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            u, _ = self.net.whiten(batch["audio"], batch["mel"])
            cond = self.net.conditioning(batch["mel"], batch.get("speaker"))
            z, _ = self.net.flow.transform(u, cond)
            samples = u.shape[-1] if self.net.draws_in_parallel else self.net.hop_length
            return (self.net.flow.sample(z[..., :samples], cond) - u[..., :samples]).abs().max()

    def _values(self, batch: Batch) -> dict[str, Tensor]:
        audio, mel, mask = batch["audio"], batch["mel"], batch["mask"]
        u, whitening = self.net.whiten(audio, mel)
        u = u * mask.unsqueeze(1)  # what is not known is no audio, but at rest
        z, log_slope = self.net.flow.transform(u, self.net.conditioning(mel, batch.get("speaker")))
        nats = masked_mean(self.net.flow.base_log_prob(z) + log_slope + whitening, mask)
        return {
            "loss": -nats,
            "nats": nats.detach(),
            "bits": (math.log(32768.0) - nats.detach()) / math.log(2.0),
            "clamp_fraction": clamp_fraction(log_slope, mask),
            "largest_log_scale": largest(log_slope, mask),
        }


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
        density_weight: float = 1.0,
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
        """Brings the teacher to the student's device."""
        self.teacher.to(self.device)

    def on_train_start(self) -> None:
        """Brings the teacher to the student's device and takes its fingerprint."""
        self.teacher.to(self.device)
        self._fingerprint = fingerprint(self.teacher)

    def on_train_end(self) -> None:
        """Holds the teacher against its fingerprint."""
        if fingerprint(self.teacher) != self._fingerprint:
            raise RuntimeError("the frozen teacher's weights changed during distillation: this is a bug, discard the run.")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch of crops, drawn from fresh noise."""
        values, _, kl = self._values(self._known(batch), self._noise(batch["mel"]))
        half = interval(self._of_all_processes(kl.detach()))
        self._log("train", values | {"kl_interval": half}, len(batch["audio"]), show=("kl", "spectral"))
        return values["loss"]

    def _noise(self, mel: Tensor) -> Tensor:
        """Draws the noise of each crop from its number in the order of all crops, whichever process has it."""
        read = self.trainer.fit_loop.total_batch_idx if self._trainer else 0
        numbers = read * len(mel) + np.arange(len(mel))
        seeds = [_seed(self.seed, i) for i in (numbers * self._processes + self.global_rank).tolist()]
        like = torch.empty_like(mel[:1], device="cpu")  # one copy to the device, not one for each crop
        return torch.cat([self.net.noise(like, torch.Generator().manual_seed(s)) for s in seeds]).to(mel.device)

    def on_validation_epoch_start(self) -> None:
        """Starts the collection of the clips' divergences."""
        self._clip_kl: list[Tensor] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs a draw for a whole held-out clip; the noise of a clip is always the same."""
        generator = torch.Generator().manual_seed(batch_idx * self._processes + self.global_rank)
        values, _, kl = self._values(batch, self.net.noise(batch["mel"], generator))
        self._clip_kl.append(kl)
        self._log("validation", values, len(batch["audio"]), show=("kl", "spectral"))

    def on_validation_epoch_end(self) -> None:
        """Logs the 95 % interval of the KL over clips."""
        self.log("validation/kl_interval", interval(self._of_all_processes(torch.cat(self._clip_kl))), sync_dist=True)

    def _values(self, batch: Batch, noise: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Returns the loss and its terms, the audio (B, T), and the KL of each item (B,)."""
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
        return values, drawn, (divergence.kl * mask).sum(dim=1).detach() / mask.sum(dim=1).clamp_min(1.0)


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def share_upsampler(student: Vocoder, teacher: Vocoder) -> None:
    """Starts the student's upsampler and speakers from the teacher's, where their shapes agree."""
    for name in ("upsampler", "speakers"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours is None or theirs is None:
            continue
        weights = theirs.state_dict()
        if {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in weights.items()}:
            ours.load_state_dict(weights)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of values (B, T) where mask (B, T) is 1."""
    return (values * mask).sum() / mask.sum().clamp_min(1.0)


def clamp_fraction(log_slope: Tensor, mask: Tensor) -> Tensor:
    """Returns the share of samples whose log-slope (B, T) is at the bound of log-scales, where gradients fade."""
    return masked_mean((log_slope.detach().abs() > 0.95 * LOG_SCALE_BOUND).to(mask.dtype), mask)


def largest(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the largest size of values (B, T) where mask (B, T) is 1; nan if there is one among them."""
    return (values.detach().abs() * mask).max()


def rms(audio: Tensor) -> Tensor:
    """Returns the root mean square of audio of any shape."""
    return audio.square().mean().sqrt()


def interval(values: Tensor) -> Tensor:
    """Returns the half width of the 95 % interval of the mean of values (N,), by the normal approximation; nan for one."""
    return 1.96 * values.std() / math.sqrt(len(values)) if len(values) > 1 else values.new_tensor(math.nan).squeeze()


def fingerprint(module: nn.Module) -> str:
    """Returns a digest of a module's weights."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
