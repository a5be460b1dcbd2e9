"""What all stages share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Batch = dict[str, Any]


class Example(NamedTuple):
    """What a model makes of a held-out clip."""

    sounds: dict[str, Tensor]  # "recording" and, where there is one, "model", each (T,)
    alignment: tuple[list[str], Tensor] | None = None  # of a text model: symbols, and the frames of each


class Task(pl.LightningModule):
    """What all stages share: a net, its optimizer, a learning rate that decays to the end of the budget, and logging.

    Args:
        net: The model to train.
        optimizer: Makes the optimizer from the parameters.
        warmup_steps: Linear rise of the learning rate.
        final_fraction: Of the learning rate, at the end of the cosine decay.
        seed: Of what is drawn in the steps.
    """

    def __init__(
        self,
        net: Any,
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
        self.validated_at: int | None = None  # the step of the last validation

    def on_validation_end(self) -> None:
        """Notes the step, so that the last validation is not run twice."""
        self.validated_at = self.global_step

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds each step by seed, process and batch: a resumed training samples the same numbers."""
        torch.manual_seed(seed_of(self.seed, self.global_rank, self.trainer.fit_loop.total_batch_idx))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Returns Adam or what the configuration names, with warm-up and decay per step."""
        optimizer = self.optimizer(self.net.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives a resumed training the optimizer's present settings, at the point of the schedule that it had reached."""
        (fresh,) = self.optimizer(self.net.parameters()).param_groups
        settings = {name: value for name, value in fresh.items() if name != "params"}
        for state, schedule in zip(checkpoint["optimizer_states"], checkpoint["lr_schedulers"], strict=True):
            for group, before in zip(state["param_groups"], schedule["base_lrs"], strict=True):
                factor = group["lr"] / before if before else 1.0
                group.update(settings | {"lr": factor * fresh["lr"], "initial_lr": fresh["lr"]})
            schedule["base_lrs"] = [fresh["lr"]] * len(schedule["base_lrs"])

    @torch.no_grad()
    def example(self, batch: Batch, seconds: float, stepwise_seconds: float, temperature: float) -> Example:
        """Returns a part of a held-out clip and a sample of the model for its mel, always from the same noise.

        Args:
            batch: Of one clip.
            seconds: Of the sample, for a model that samples in parallel.
            stepwise_seconds: For one that samples step by step; the engine for CPUs does that, even for a model on a GPU.
            temperature: Of the noise.
        """
        net, mel = self.net, batch["mel"]
        if net.device.type != "cpu" and not net.draws_in_parallel:
            net = copy.deepcopy(net).cpu()  # a GPU takes a few hundred such steps a second, the engine for CPUs thousands
        longest = seconds if net.draws_in_parallel else stepwise_seconds
        # A quarter into the clip, where a short segment is likely to be speech.
        frames = max(1, min(mel.shape[-1], int(longest * net.sample_rate / net.hop_length)))
        first = (mel.shape[-1] - frames) // 4
        mel = mel[:1, :, first : first + frames].to(net.device)
        recording = batch["audio"][0, first * net.hop_length : (first + frames) * net.hop_length]
        speaker = batch["speaker"].to(net.device) if "speaker" in batch else None
        audio = net.sample(mel, net.noise(mel, torch.Generator().manual_seed(0)), temperature, speaker=speaker)
        return Example({"recording": recording, "model": audio.float().cpu()[0]})

    def _learning_rate_factor(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, self._spent(step))))
        return warmup * (self.final_fraction + (1.0 - self.final_fraction) * cosine)

    def _spent(self, step: int) -> float:
        """Returns the share of the budget that is spent: of `max_steps` or of `max_time`, the larger one."""
        spent = step / self.trainer.max_steps if self.trainer.max_steps > 0 else 0.0
        for elapsed, remaining in times(self.trainer):
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


def times(trainer: Any) -> list[tuple[float, float]]:
    """Returns the seconds that a training has taken and has left, where a timer limits it."""
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
    return [(timer.time_elapsed(), left) for timer in timers if (left := timer.time_remaining()) is not None]


def seed_of(*key: int) -> int:
    """Returns a seed that differs with each key of whole numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
