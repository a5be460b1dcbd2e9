"""Steps of training: the likelihood of a teacher, and the distillation of a student from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wavflow.benchmarking.ceilings import Ceilings
from wavflow.benchmarking.floors import operations_per_sample
from wavflow.benchmarking.forms import Form, forms
from wavflow.benchmarking.synthesis import inputs
from wavflow.losses import DensityDistillation, MultiResolutionSTFTLoss
from wavflow.losses.distillation import FORMS
from wavflow.losses.spectral import PowerLoss
from wavflow.training import DistillationTask, LikelihoodTask, Task
from wavflow.vocoder import Vocoder


def training(
    name: str, net: Vocoder, batch_size: int, seconds: float, compile: bool, teacher: Vocoder | None, ceilings: Ceilings
) -> list[dict[str, Any]]:
    """Takes steps of Adam on a batch of noise, by each form of the nets: of distillation where there is a teacher.

    The share of the floor is what is known as model FLOP utilization. A pass back through a net costs two forward, half of that
    where its weights are frozen, as a teacher's. Losses and Adam are left out of the floor.
    """
    mel, audio = inputs(net, seconds, batch_size)
    batch = {"audio": 0.1 * audio, "mel": mel, "mask": torch.ones_like(audio)}
    passes = 3.0 * operations_per_sample(net) + (0.0 if teacher is None else 2.0 * operations_per_sample(teacher))
    rows = []
    for form_name, form in forms(net, compile, training=True).items():
        timing = ceilings.stopwatch(step(task(net, form, teacher), batch, form))
        floor = ceilings.floor(audio.numel() * passes, 0.0, form.dtype)
        made = audio.numel() / net.sample_rate
        rows.append(
            {
                "model": name,
                "step": "likelihood" if teacher is None else "distillation",
                "form": form_name,
                "batch": tuple(audio.shape),
                "audio seconds/s": made / timing.median,
                "floor s": floor,
                "share of floor": floor / timing.median,
                **timing.row,
            }
        )
    return rows


def task(net: Vocoder, form: Form, teacher: Vocoder | None) -> Task:
    """Returns what trains a copy of a net, computed in one form; the losses are those of conf/stage."""
    net = form.change(net).requires_grad_(True)
    if teacher is None:
        made = LikelihoodTask(net, torch.optim.Adam)
    else:
        density = divergence(net, teacher)
        spectral, power = MultiResolutionSTFTLoss().to(net.device), PowerLoss().to(net.device)
        made = DistillationTask(net, form.change(teacher), density, torch.optim.Adam, spectral, power)
    made.log = lambda *_, **__: None  # no trainer is there that would take it
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


def step(task: Task, batch: dict[str, Any], form: Form) -> Callable[[], None]:
    """Returns a call that takes a step."""
    optimizer = task.optimizer(task.net.parameters())

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with form.autocast(batch["audio"].device):
            loss = task.training_step(batch, 0)
        loss.backward()
        optimizer.step()

    return run
