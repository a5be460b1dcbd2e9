"""What a run leaves behind while it trains (model file, samples, checkpoints), and what it does when something goes wrong."""

from __future__ import annotations

import copy
import io
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from wavflow.audio import write_audio
from wavflow.files import atomic_write
from wavflow.models import save_model
from wavflow.reporting.pictures import spectrogram_picture


class SaveModel(pl.Callback):
    """Writes `model.safetensors`, with the averaged weights where there are any, after each validation and at the end.

    List it before the weight averaging: validation then still runs on the averaged weights when this is called.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.seconds, self._started = 0.0, time.monotonic()  # of training, over all of its pieces

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

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                callback.on_train_end(trainer, pl_module)  # not called where a resumed run had no step left to do
        self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            seconds = round(time.monotonic() - self._started, 1)
            info = {"steps": trainer.global_step, "stage": type(pl_module).__name__, "seconds": seconds}
            save_model(pl_module.net, self.path, info)


def warm_ema(decay: float = 0.999) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Returns a `multi_avg_fn` of `AveragedModel` whose decay rises to `decay`: (1 + n) / (10 + n) after n updates.

    A constant decay of 0.999 would still hold a third of the untrained weights after 1,000 steps.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
        n = n_averaged.float()  # stays where it is: to read it would make a GPU wait
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
        self._average_model.module.to(pl_module.device)


class Listen(pl.Callback):
    """Draws the first validation clip, always from the same noise: as a file, and as sound and picture for TensorBoard.

    Args:
        folder: Where the files go.
        seconds: Of the clip, for a model that draws in parallel.
        stepwise_seconds: The same for a model that draws sample by sample; the engine for CPUs draws it, on a GPU too.
        temperature: Of the noise.
    """

    def __init__(self, folder: str, seconds: float = 4.0, stepwise_seconds: float = 2.0, temperature: float = 1.0) -> None:
        self.folder = Path(folder)
        self.seconds = seconds
        self.stepwise_seconds = stepwise_seconds
        self.temperature = temperature

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        net, batch = pl_module.net, next(iter(trainer.val_dataloaders))
        seconds = self.seconds if net.draws_in_parallel else self.stepwise_seconds
        if net.device.type != "cpu" and not net.draws_in_parallel:
            net = copy.deepcopy(net).cpu()  # a GPU takes some hundred of such steps a second, the engine thousands
        # A quarter into the clip, where a short piece is likely to be speech.
        frames = max(1, min(batch["mel"].shape[-1], int(seconds * net.sample_rate / net.hop_length)))
        first = (batch["mel"].shape[-1] - frames) // 4
        mel = batch["mel"][:1, :, first : first + frames].to(net.device)
        recording = batch["audio"][0, first * net.hop_length : (first + frames) * net.hop_length]
        noise = net.noise(mel, torch.Generator().manual_seed(0))
        speaker = batch["speaker"].to(net.device) if "speaker" in batch else None
        audio = net.sample(mel, noise, self.temperature, speaker=speaker).float().cpu()[0]
        stem = self.folder / f"step-{trainer.global_step:07d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_audio(stem.with_suffix(".wav"), audio, net.sample_rate)
        spectrogram_picture(stem.with_suffix(".png"), {"recording": recording, "model": audio}, net.sample_rate)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                picture = matplotlib.image.imread(stem.with_suffix(".png"))
                # two tags: of one tag TensorBoard shows neither
                logger.experiment.add_image("spectrogram", picture, trainer.global_step, dataformats="HWC")
                logger.experiment.add_audio("sound", audio.clamp(-1, 1), trainer.global_step, net.sample_rate)


class Stopped(Exception):
    """Training was told to end by a signal, and has saved what it had.

    Args:
        signum: The signal.
        step: How many steps were done.
    """

    def __init__(self, signum: signal.Signals, step: int) -> None:
        super().__init__(f"stopped by {signum.name} and saved after {step} steps")
        self.signum = signum


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, when `write` is called, and keeps the one before it as `previous.ckpt`.

    Between the two calls no weight may change.
    """

    def __init__(self) -> None:
        self.waiting: tuple[dict[str, Any], Path] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self.waiting = checkpoint, Path(path)

    def write(self) -> None:
        """Writes the checkpoint that waits."""
        assert self.waiting is not None
        (checkpoint, path), self.waiting, encoded = self.waiting, None, io.BytesIO()
        torch.save(checkpoint, encoded)  # in memory, since torch hides what goes wrong with a file
        with atomic_write(path) as part:
            part.write_bytes(encoded.getbuffer())
            if path.exists():
                os.replace(path, path.with_name("previous.ckpt"))


class KeepCheckpoint(Checkpoint):
    """Saves the whole state of training: every few minutes, after each validation, at the end, and when told to stop.

    SIGTERM and SIGINT let the step, and the validation that follows it, come to its end, then save and raise `Stopped`; the
    same signal once more ends the process at once. Training goes on from a checkpoint as if it had never ended, see `Task`
    and `AudioDataModule`. So none is taken among the batches of one optimizer step, whose gradients it would not hold. And
    it is written only when the next step begins, after the curves, which Lightning logs when no callback of the step is
    called any more; where a validation comes between, another one, of after the validation, takes its place.

    Args:
        folder: Where `last.ckpt` and, from the second on, `previous.ckpt` are.
        minutes: Between two of them, at least; 0 for one after each step.
    """

    def __init__(self, folder: str, minutes: float = 5.0) -> None:
        self.path, self.seconds = Path(folder) / "last.ckpt", 60.0 * minutes
        self._file, self._saved = CheckpointFile(), time.monotonic()
        self._signal: signal.Signals | None = None
        self._stop = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self._file

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved, self._signal, self._stop = time.monotonic(), None, False
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    signal.signal(signum, self._remember)  # Lightning sets back what was there before it

    def _remember(self, signum: int, _: Any) -> None:
        self._signal = signal.Signals(signum)
        signal.signal(signum, signal.SIG_DFL)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._label_logs(trainer)
        self._write(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        self._take(trainer, ends or time.monotonic() - self._saved >= self.seconds)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop = False  # there is nothing left to stop
        self._write(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._take(trainer, True)
            self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._label_logs(trainer)

    def _label_logs(self, trainer: pl.Trainer) -> None:
        # Lightning counts what it logs apart from the steps, and resumes that count one short where no step is left.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def _take(self, trainer: pl.Trainer, due: bool) -> None:
        if (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        decide = trainer.strategy.reduce_boolean_decision  # all processes do the same
        self._stop = decide(self._signal is not None, all=False)
        if self._stop or decide(due, all=False):
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()

    def _write(self, trainer: pl.Trainer) -> None:
        if self._file.waiting is not None:
            for logger in trainer.loggers:
                logger.save()
            self._file.write()
        if self._stop:
            raise Stopped(self._signal or signal.SIGTERM, trainer.global_step)


class SkipNonFinite(pl.Callback):
    """Leaves the weights as they are where a loss or gradient is not finite, and ends the run if that goes on.

    The steps that were skipped are counted as `train/skipped`.

    Args:
        limit: So many steps in a row end the run.
    """

    def __init__(self, limit: int = 20) -> None:
        if limit < 1:
            raise ValueError(f"`limit` must be at least 1, got {limit}: raise it.")
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
