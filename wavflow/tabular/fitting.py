"""Maximum likelihood for small densities: thousands of tiny steps, stopped early, by the average of the weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wavflow.arguments import at_least
from wavflow.flows import Flow


class Epoch(NamedTuple):
    """Mean negative log-likelihoods after an epoch, in nats per row; that of training is the epoch's own mean."""

    train: float
    validation: float


class History(NamedTuple):
    """A training's epochs, of which the first is the untrained model's, the one that was kept, and why it ended."""

    epochs: list[Epoch]
    best: int
    seconds: float
    ended: str


def fit(
    model: Flow,
    train: Tensor,
    validation: Tensor,
    *,
    epochs: int = 300,
    max_seconds: float | None = None,
    batch_size: int = 128,
    lr: float = 2e-3,
    weight_decay: float = 1e-2,
    clip: float = 5.0,
    patience: int = 60,
    average: float = 0.99,
    jitter: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> History:
    """Trains a density by AdamW, its rate decaying as a half cosine, and leaves the best averaged weights in it.

    Validation is of the exponential average of the weights, not of the weights themselves: on a thousand rows these differ by
    tenths of a nat from step to step. A loss that is not finite ends the training; what was best until then stays.

    Args:
        model: Its `log_prob` of (B, D, 1) is in nats, summed over all that it returns.
        train: Rows (N, D, 1).
        validation: Rows (M, D, 1).
        epochs: At most.
        max_seconds: At most; the rate then decays by time.
        batch_size: Rows per step, at most N.
        lr: At the start.
        weight_decay: Of AdamW, decoupled.
        clip: Largest norm of a gradient.
        patience: Epochs without a better validation until it ends.
        average: Weight that the exponential average keeps of itself in each step.
        jitter: What is done to each batch, e.g. fresh dequantization noise.
        progress: Wraps the numbers of the epochs, e.g. `tqdm`.

    Raises:
        ValueError: When the untrained model's likelihood is not finite, or a setting is out of its range.
    """
    at_least(1, epochs=epochs, batch_size=batch_size, patience=patience)
    began, jitter = time.monotonic(), jitter or (lambda x: x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average))
    smooth: Any = averaged.module  # of the type of `model`
    start = nll(smooth, validation)
    if not math.isfinite(start):
        raise ValueError(f"`model` must have a finite likelihood before training, got {start} nats: check the data's scale.")
    history, best, kept, ended = [Epoch(nll(smooth, jitter(train)), start)], 0, copy.deepcopy(smooth.state_dict()), "epochs"
    for epoch in progress(range(1, epochs + 1)):
        total = 0.0
        for rows in torch.randperm(len(train), device=train.device).split(min(batch_size, len(train))):
            done = (epoch - 1) / epochs if max_seconds is None else (time.monotonic() - began) / max_seconds
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            loss = -model.log_prob(jitter(train[rows])).sum() / len(rows)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
            if not (math.isfinite(loss.item()) and math.isfinite(norm)):
                ended = f"loss {loss.item():g}, gradient {float(norm):g} in epoch {epoch}"
                break
            optimizer.step()
            averaged.update_parameters(model)
            total += loss.item() * len(rows)
        else:
            history.append(Epoch(total / len(train), nll(smooth, validation)))
            if history[-1].validation < history[best].validation:
                best, kept = epoch, copy.deepcopy(smooth.state_dict())
            if epoch - best >= patience:
                ended = "patience"
            elif max_seconds is not None and time.monotonic() - began >= max_seconds:
                ended = "time"
        if ended != "epochs":
            break
    model.load_state_dict(kept)
    return History(history, best, time.monotonic() - began, ended)


@torch.no_grad()
def log_likelihoods(model: Flow, x: Tensor) -> Tensor:
    """Returns log p of rows x (N, D, 1), in nats: (N,)."""
    return torch.cat([model.log_prob(part).reshape(len(part), -1).sum(dim=1) for part in x.split(8192)])


def nll(model: Flow, x: Tensor) -> float:
    """Returns the mean negative log-likelihood of rows x (N, D, 1), in nats per row."""
    return -log_likelihoods(model, x).double().mean().item()
