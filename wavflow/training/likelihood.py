"""Stage 1: maximum likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from wavflow.likelihood.bits import bits_per_sample
from wavflow.training.measures import clamp_fraction, largest, masked_mean
from wavflow.training.task import Batch, Task


class LikelihoodTask(Task):
    """Stage 1: minimizes the mean negative log-likelihood, in nats per sample."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Initializes the maps that start from data with the first batch; not in a resumed run."""
        super().on_train_batch_start(batch, batch_idx)
        if self.trainer.global_step > 0:
            return
        batch = {name: self._of_all_processes(value) for name, value in batch.items() if name != "name"}
        with torch.no_grad():
            u, _ = self.net.whiten(batch["audio"], batch["mel"])
            u = u * self._known(batch)["mask"].unsqueeze(1)
            self.net.flow.initialize(u, self.net.conditioning(batch["mel"], batch.get("speaker")))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        values = self._values(self._known(batch))
        self._log("train", values, len(batch["audio"]), show=("nats",))
        return values["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
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
        u = u * mask.unsqueeze(1)  # unknown samples count as silence
        z, log_slope = self.net.flow.transform(u, self.net.conditioning(mel, batch.get("speaker")))
        nats = masked_mean(self.net.flow.base_log_prob(z) + log_slope + whitening, mask)
        return {
            "loss": -nats,
            "nats": nats.detach(),
            "bits": bits_per_sample(nats.detach()),
            "clamp_fraction": clamp_fraction(log_slope, mask),
            "largest_log_scale": largest(log_slope, mask),
        }
