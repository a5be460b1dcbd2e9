"""How much audio a step of training takes in: the likelihood of a teacher, the distillation of a student from one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from wavflow.benchmarking.timing import Meter, Row, inputs, operations_per_sample, times
from wavflow.losses import DensityDistillation, MultiResolutionSTFTLoss
from wavflow.losses.distillation import FORMS
from wavflow.losses.spectral import PowerLoss
from wavflow.speakers import first_speaker
from wavflow.training import DistillationTask, LikelihoodTask
from wavflow.training.task import Batch
from wavflow.vocoder import Vocoder

Task = LikelihoodTask | DistillationTask


def training(name: str, net: Vocoder, batch_size: int, segment_length: int, teacher: Vocoder | None, meter: Meter) -> list[Row]:
    """Takes steps of Adam on a batch of noise: of distillation where there is a teacher.

    The percentage of the peak is what is known as model FLOP utilization. A pass back through a net costs two forward; half of
    that where its weights are frozen, as a teacher's. Losses and Adam are not counted.
    """
    mel, audio = inputs(net, segment_length, batch_size)
    batch: Batch = {"audio": 0.1 * audio, "mel": mel, "mask": torch.ones_like(audio)}
    if net.speakers is not None:
        batch["speaker"] = first_speaker(net, batch_size)
    operations = 3.0 * operations_per_sample(net) + (0.0 if teacher is None else 2.0 * operations_per_sample(teacher))
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        taken = meter(step(task(net, teacher), batch, dtype))
        row = {
            "model": name,
            "step": "likelihood" if teacher is None else "distillation",
            "precision": str(dtype).removeprefix("torch."),
            "batch": tuple(audio.shape),
            "audio seconds/s": audio.numel() / net.sample_rate / taken.median,
            "% of peak": 100.0 * audio.numel() * operations / taken.median / meter.peak(dtype),
        }
        rows.append(row | times(taken))
    return rows


def task(net: Vocoder, teacher: Vocoder | None) -> Task:
    """Returns what trains a copy of a net; the losses are those of conf/stage."""
    net = copy.deepcopy(net).requires_grad_(True)
    if teacher is None:
        made: Task = LikelihoodTask(net, torch.optim.Adam)
    else:
        spectral, power = MultiResolutionSTFTLoss().to(net.device), PowerLoss().to(net.device)
        made = DistillationTask(net, teacher, divergence(net, teacher), torch.optim.Adam, spectral, power)
    made.__dict__["log"] = lambda *_, **__: None  # no trainer is there to take it
    return made.train()


def divergence(student: Vocoder, teacher: Vocoder) -> DensityDistillation:
    """Returns the KL in the first form that fits both, the closed one where that is possible."""
    for form in FORMS:
        density = DensityDistillation(form)
        try:
            density.check(student.flow, teacher.flow)
        except ValueError:
            continue
        break
    return density


def step(task: Task, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """Returns a call that takes a step."""
    optimizer = task.optimizer(task.net.parameters())

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(task.net.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = task.training_step(batch, 0)
        loss.backward()
        optimizer.step()

    return run
