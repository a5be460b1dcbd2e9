"""What a run leaves behind while it trains: the model file, and samples to hear and see."""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.image
import pytorch_lightning as pl
import torch

from wavflow.audio import write_audio
from wavflow.evaluation.pictures import spectrogram_picture
from wavflow.models import save_model


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
        self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            seconds = round(time.monotonic() - self._started, 1)
            info = {"steps": trainer.global_step, "stage": type(pl_module).__name__, "seconds": seconds}
            save_model(pl_module.net, self.path, info)


class Listen(pl.Callback):
    """Draws the first validation clip, always from the same noise: as a file, and as sound and picture for TensorBoard.

    Args:
        folder: Where the files go.
        seconds: Of the clip, for a model that draws in parallel.
        stepwise_seconds: The same for a model that draws sample by sample.
        temperature: Of the noise.
    """

    def __init__(self, folder: str, seconds: float = 4.0, stepwise_seconds: float = 0.25, temperature: float = 1.0) -> None:
        self.folder = Path(folder)
        self.seconds = seconds
        self.stepwise_seconds = stepwise_seconds
        self.temperature = temperature

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        net, batch = pl_module.net, next(iter(trainer.val_dataloaders))
        seconds = self.seconds if net.draws_in_parallel else self.stepwise_seconds
        # A quarter into the clip, where a short piece is likely to be speech.
        frames = max(1, min(batch["mel"].shape[-1], int(seconds * net.sample_rate / net.hop_length)))
        first = (batch["mel"].shape[-1] - frames) // 4
        mel = batch["mel"][:1, :, first : first + frames].to(pl_module.device)
        recording = batch["audio"][0, first * net.hop_length : (first + frames) * net.hop_length]
        noise = net.noise(mel, torch.Generator().manual_seed(0))
        audio = net.sample(mel, noise, self.temperature).float().cpu()[0]
        stem = self.folder / f"step-{trainer.global_step:07d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_audio(stem.with_suffix(".wav"), audio, net.sample_rate)
        spectrogram_picture(stem.with_suffix(".png"), {"recording": recording, "model": audio}, net.sample_rate)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                picture = matplotlib.image.imread(stem.with_suffix(".png"))
                logger.experiment.add_image("sample", picture, trainer.global_step, dataformats="HWC")
                logger.experiment.add_audio("sample", audio.clamp(-1, 1), trainer.global_step, net.sample_rate)
