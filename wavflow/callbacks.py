"""Callbacks of a training: write the model and samples, average the weights, skip non-finite steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import matplotlib.image
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from wavflow.arguments import at_least
from wavflow.models import save_model
from wavflow.reporting.pictures import alignment_picture, spectrogram_picture
from wavflow.training.task import Task
from wavflow.writing import write_audio


class SaveModel(pl.Callback):
    """Writes `model.safetensors`, with the averaged weights where there are any, after each validation and at the end.

    List it before the weight averaging: validation then still runs on the averaged weights when this is called.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.seconds, self._started = 0.0, time.monotonic()  # of training, also before it was resumed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic() - self.seconds

    def state_dict(self) -> dict[str, float]:
        return {"seconds": time.monotonic() - self._started}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]
        self._started = time.monotonic() - self.seconds

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._save(trainer, pl_module)

    def on_fit_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                callback.on_train_end(trainer, pl_module)  # not called where a resumed run had no step left to do
        self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            seconds = round(time.monotonic() - self._started, 1)
            info = {"steps": trainer.global_step, "stage": type(pl_module).__name__, "seconds": seconds}
            save_model(cast(Task, pl_module).net, self.path, info)


def warm_ema(decay: float = 0.999) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Returns a `multi_avg_fn` of `AveragedModel` whose decay rises to `decay`: (1 + n) / (10 + n) after n updates.

    With a constant decay of 0.999, a third of the average would still be untrained weights after 1,000 steps.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
        n = n_averaged.float()  # not .item(), for which a GPU would wait
        step = torch._foreach_sub(current, averaged)
        torch._foreach_mul_(step, 1.0 - ((1.0 + n) / (10.0 + n)).clamp_max(decay))
        torch._foreach_add_(averaged, step)

    return average


class MovingAverage(WeightAveraging):
    """Averages the weights exponentially, see `warm_ema`, on the device that they are trained on.

    Args:
        decay: Of the average, once it is warm.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=warm_ema(decay))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the average, which was made before the model went to its device: else each step would copy all weights."""
        super().on_train_start(trainer, pl_module)
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)


class Listen(pl.Callback):
    """Samples the first validation clip, always from the same noise: as a file, and as sound and picture for TensorBoard.

    A text model speaks its sentence, and its alignment is drawn too. The files go to `folder`; see `Task.example` for the rest.
    """

    def __init__(self, folder: str, seconds: float = 4.0, stepwise_seconds: float = 2.0, temperature: float = 1.0) -> None:
        self.folder = Path(folder)
        self.options = seconds, stepwise_seconds, temperature

    def on_validation_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        batch, task = next(iter(trainer.val_dataloaders)), cast(Task, pl_module)
        example = task.example(batch, *self.options)
        audio, sample_rate = example.sounds.get("model"), task.net.mel.sample_rate
        stem = self.folder / f"step-{trainer.global_step:07d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if audio is not None:
            write_audio(stem.with_suffix(".wav"), audio, sample_rate)
        spectrogram_picture(stem.with_suffix(".png"), example.sounds, sample_rate)
        if example.alignment is not None:
            alignment_picture(stem.with_name(f"{stem.name}-alignment.png"), *example.alignment)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                picture = matplotlib.image.imread(stem.with_suffix(".png"))
                # two tags: of one tag TensorBoard shows neither
                logger.experiment.add_image("spectrogram", picture, trainer.global_step, dataformats="HWC")
                if audio is not None:
                    logger.experiment.add_audio("sound", audio.clamp(-1, 1), trainer.global_step, sample_rate)


class SkipNonFinite(pl.Callback):
    """Leaves the weights as they are where a loss or gradient is not finite, and ends the run if that goes on.

    The steps that were skipped are counted as `train/skipped`.

    Args:
        limit: So many steps in a row end the run.
    """

    def __init__(self, limit: int = 20) -> None:
        at_least(1, limit=limit)
        self.limit = limit
        self.skipped, self.in_a_row = 0, 0
        self._loss: Tensor | float = 0.0
        self._names: list[str] = []

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._names = [*self._names, *batch["name"]]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._loss = self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        norm, loss, names = torch.nn.utils.get_total_norm(gradients), self._loss, self._names
        self._loss, self._names = 0.0, []
        finite = trainer.strategy.reduce_boolean_decision(bool(torch.isfinite(norm + loss)), all=True)
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.skipped += not finite
        pl_module.log("train/skipped", float(self.skipped))
        if finite:
            return
        pl_module.zero_grad()  # None, not 0: to that an optimizer would still add its momentum
        values = {"loss": loss, "norm of the gradient": norm}
        values |= {name.removeprefix("train/"): value for name, value in trainer.callback_metrics.items() if "_" in name}
        found = ", ".join(f"{name.replace('_', ' ')} {float(value):.4g}" for name, value in values.items())
        report = f"loss or gradient of step {trainer.global_step} is not finite ({found}), with {', '.join(names)}"
        if self.in_a_row >= self.limit:
            raise ValueError(
                f"`limit`: {self.limit} steps in a row were skipped, the weights are those before them: the {report}. Lower "
                "stage.optimizer.lr, look at these files, or go on from an earlier checkpoint."
            )
        if self.in_a_row == 1:
            warnings.warn(f"A step is skipped, the {self.skipped}. so far: the {report}.", stacklevel=2)
