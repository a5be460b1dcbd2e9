"""The opening lines of a training, its progress bar, and its curves for TensorBoard."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from wavflow.audio_files import counted
from wavflow.data.batches import Batches
from wavflow.training.task import Task, times

SLOW_ON_A_CPU = 1_000_000
"""With so many parameters or more, a step takes seconds on a CPU."""


def opening(task: Task, data: Batches, trainer: pl.Trainer, output: str, teacher: str | None) -> str:
    """Returns the opening lines of a training: data, net, places, and what is unusual about them."""
    device = trainer.strategy.root_device
    on_cpu = f"{device.type}, {counted(torch.get_num_threads(), 'thread')}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    size = sum(parameter.numel() for parameter in task.net.parameters())
    limits = [counted(trainer.max_steps, "step")] if trainer.max_steps > 0 else []
    limits += [counted(round(remaining / 60), "minute") for _, remaining in times(trainer)]
    lines = [
        f"Data: {data.summary}.",
        f"Net: {size:,} parameters, on {where}, {trainer.precision}; at most {' or '.join(limits) or 'until it is stopped'}.",
        f"Output: {output}" + (f"; teacher: {teacher}" if teacher else ""),
    ]
    notes = list(data.remarks)
    if device.type == "cpu" and size >= SLOW_ON_A_CPU:
        notes.append(
            f"{size / 1e6:.1f} million parameters take seconds a step on a CPU, and days in all: the nets for it are "
            "net=teacher_small, net=student_small and the like, or take the recipe experiment=cpu_small data.path=<folder>."
        )
    return "\n".join([*lines, *(f"Note: {note}" for note in notes)])


class ProgressBar(TQDMProgressBar):
    """Counts to the end of the training, in minutes where time is limited, else in steps; the data has no end."""

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_start()
        bar, (n, total) = self.train_progress_bar, self._place(trainer)
        if times(trainer):
            bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} minutes{postfix}"
        bar.reset(total)
        bar.initial = bar.n = n

    def on_train_epoch_start(self, *_: Any) -> None:
        """Leaves the bar as it is."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        bar, (n, total) = self.train_progress_bar, self._place(trainer)
        if self._should_update(trainer.fit_loop.total_batch_idx + 1, bar.total) or n == total:
            if not bar.disable:
                bar.n = n if bar.total is None else min(n, bar.total)  # the last step ends a little late
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return ({"step": trainer.global_step} if times(trainer) else {}) | metrics

    def _place(self, trainer: pl.Trainer) -> tuple[float, float | None]:
        """Returns how far the training is and where it ends, in minutes or steps."""
        for done, remaining in times(trainer):
            return done / 60, (done + max(0.0, remaining)) / 60
        return trainer.global_step, trainer.max_steps if trainer.max_steps > 0 else None


class OneEventFile(TensorBoardLogger):
    """Writes one file for a whole run, where Lightning would begin another for each validation outside of the training."""

    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self._experiment.flush()

    def close(self) -> None:
        if self._experiment is not None:
            self._experiment.close()
