"""Text to mel: maximum likelihood given the most likely alignment, and durations that are learnt from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavflow.mel_scale import audible
from wavflow.models import load_model
from wavflow.text_to_mel import TextToMel
from wavflow.training.task import Batch, Example, OptimizerFactory, Task


class TextTask(Task):
    """Maximizes the likelihood of mels given their texts; see `TextToMel`.

    Durations are predicted as the rate of a Poisson distribution: its likelihood is greatest at the mean duration, where a
    squared error of logs would make speech too fast.

    Args:
        net: See `Task`, as for the optimizer and the schedule.
        duration_weight: Of the loss of the durations.
        vocoder: That gives held-out sentences a sound; a model file or name.
    """

    net: TextToMel

    def __init__(
        self,
        net: TextToMel,
        optimizer: OptimizerFactory,
        duration_weight: float = 1.0,
        vocoder: str = "lj-student",
        **schedule: Any,
    ) -> None:
        super().__init__(net, optimizer, **schedule)
        self.duration_weight, self.vocoder = duration_weight, vocoder

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Lets the flow's normalizations start from the frames of the first batch."""
        super().on_train_batch_start(batch, batch_idx)
        if self.trainer.global_step == 0:
            frames = torch.cat([mel[:, :n] for mel, n in zip(batch["mel"], batch["frames"].tolist(), strict=True)], dim=1)
            self.net.initialize(frames.unsqueeze(0))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        values = self._values(batch)
        self._log("train", values, len(batch["mel"]), show=("nats", "duration"))
        return values["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log("validation", self._values(batch), len(batch["mel"]), show=("nats", "duration"))

    def _values(self, batch: Batch) -> dict[str, Tensor]:
        aligned = self.net.log_prob(batch["mel"], batch["symbols"], batch.get("speaker"), batch["frames"], batch["lengths"])
        nats = aligned.log_prob.sum() / (batch["frames"].sum() * batch["mel"].shape[1])
        spoken, expected = aligned.durations > 0, aligned.log_durations
        poisson = (expected.exp() - aligned.durations * expected)[spoken].sum() / batch["frames"].sum()  # as nats: per frame
        return {
            "loss": self.duration_weight * poisson - nats,
            "nats": nats.detach(),  # per coefficient of the mel
            "duration": (expected.detach().exp() - aligned.durations)[spoken].abs().mean(),  # mean error, frames
            "tempo": expected.detach()[spoken].exp().sum() / aligned.durations.sum(),  # predicted by true length
        }

    @torch.no_grad()
    def example(self, batch: Batch, seconds: float, stepwise_seconds: float, temperature: float) -> Example:
        """Returns a held-out utterance, what model and vocoder make of its text, and how the text lies along its mel.

        Where the vocoder has another mel convention the sound is left out; the other arguments are those of vocoders.
        """
        symbols, speaker = batch["symbols"].to(self.device), batch["speaker"].to(self.device) if "speaker" in batch else None
        durations = self.net.log_prob(batch["mel"].to(self.device), symbols, speaker).durations[0].sum(dim=-1).cpu()
        names = list(self.net.numbers)
        alignment = [names[number] for number in symbols[0].tolist()], durations
        vocoder = load_model(self.vocoder)
        sounds = {"recording": batch["audio"][0]}
        if vocoder.mel.spec == self.net.mel.spec:
            mel = self.net.sample(symbols, speaker=speaker, generator=torch.Generator().manual_seed(0)).cpu()
            low, high = batch["mel"].aminmax()  # an untrained model says anything
            mel = audible(mel.clamp(low.cpu(), high.cpu()), vocoder.mel)
            sounds["model"] = vocoder.sample(mel, generator=torch.Generator().manual_seed(0))[0]
        return Example(sounds, alignment)
