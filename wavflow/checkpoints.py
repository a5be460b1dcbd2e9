"""Checkpoints of a training: when they are taken, how they are written, and how signals are handled."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from wavflow.audio_files import counted
from wavflow.data.batches import STOPS
from wavflow.files import atomic_write


class Stopped(Exception):
    """A signal ended the training, which has saved its state after `step` steps; before the first there is nothing to save."""

    def __init__(self, signum: signal.Signals, step: int) -> None:
        when = f"and saved after {counted(step, 'step')}" if step else "before the first step"
        super().__init__(f"stopped by {signum.name} {when}")
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
    """Saves the whole state of training: every few minutes, after each validation, at the end, and after a signal.

    Each of `STOPS` lets the step, and the validation that follows it, come to its end, then saves and raises `Stopped`; the
    same signal once more ends the process at once. Training goes on from a checkpoint as if it had never ended, see `Task`
    and `Batches`. So no checkpoint is taken between the batches of one optimizer step: it would lack their gradients. It is
    written when the next step begins, since Lightning logs the curves after the last callback of a step. If a validation comes
    between, a checkpoint of after the validation is written instead. In a validation before or after the training there is
    nothing to save: Ctrl-C is as Python has it, and the others raise `Stopped` at once.

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
        _handle(STOPS, self._remember)

    def _remember(self, signum: int, _: Any) -> None:
        self._signal = signal.Signals(signum)
        signal.signal(signum, signal.SIG_DFL)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def stop(signum: int, _: Any) -> None:
            raise Stopped(signal.Signals(signum), trainer.global_step)

        if trainer.state.fn != "fit":  # before or after a training; Lightning would ignore SIGTERM
            _handle([signum for signum in STOPS if signum != signal.SIGINT], stop)

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


def _handle(signals: list[signal.Signals], handler: Callable[[int, Any], None]) -> None:
    """Has a function called on signals that are not ignored; Lightning sets back what was there before it."""
    if threading.current_thread() is threading.main_thread():
        for signum in signals:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, handler)
