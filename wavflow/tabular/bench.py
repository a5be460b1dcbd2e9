"""One run of `wavflow.density`: fits a flow and a Gaussian on every fold of a data set, and scores the test rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wavflow.flows import Flow
from wavflow.reporting.intervals import mean_interval
from wavflow.tabular.densities import density, gaussian_log_prob
from wavflow.tabular.fitting import History, fit, log_likelihoods
from wavflow.tabular.tables import Data, Fold

DEPENDENT = 1e-6  # of its deviation: a column of which the others leave less than this over follows from them


class Fitted(NamedTuple):
    """A flow on all folds: the models, how each was trained, and log p (N,) of each fold's test rows."""

    name: str
    models: list[Flow]
    histories: list[History]
    log_probs: list[Tensor]


def fit_all(
    data: Data,
    flow: dict[str, Any],
    options: dict[str, Any],
    seed: int = 0,
    noise: float = 0.0,
    progress: Callable[..., Iterable[int]] = lambda epochs, desc: epochs,
) -> Fitted:
    """Fits one flow per fold; fold i takes seed + i.

    Args:
        data: The rows.
        flow: Configuration of `densities.density`.
        options: Settings of `fitting.fit`.
        seed: Of weights and batches.
        noise: Standard deviation of the Gaussian noise on each batch, in those of the columns: it blunts the spikes that a
            flow puts on repeated values. Pictures have noise of their own.
        progress: Wraps the numbers of the epochs, given `desc`, a name to show; e.g. `tqdm`.

    Raises:
        ValueError: When a column follows from others, so that there is no density.
    """
    for fold in data.folds:
        check_independent(known_rows(fold, data.levels), data.columns)
    fitted = Fitted(str(flow.get("name")), [], [], [])
    for i, fold in enumerate(data.folds):
        torch.manual_seed(seed + i)
        model = density(flow, len(data.columns), data.levels)
        parts = Fold(*(x.to(torch.get_default_dtype())[..., None] for x in fold))  # (N, D, 1)
        known = known_rows(parts, data.levels)
        model.initialize(known)
        jitter = functools.partial(blur, spread=noise * known.std(dim=0)) if noise else None
        jitter = functools.partial(dequantize, levels=data.levels) if data.levels else jitter
        place = f" {i + 1}/{len(data.folds)}" if len(data.folds) > 1 else ""
        bar = functools.partial(progress, desc=fitted.name + place)
        history = fit(model, parts.train, parts.validation, jitter=jitter, progress=bar, **options)
        fitted.models.append(model.eval())
        fitted.histories.append(history)
        fitted.log_probs.append(log_likelihoods(model, parts.test) + offset(data, fold))
    return fitted


def baseline(data: Data) -> list[Tensor]:
    """Returns log p (N,) of each fold's test rows under the Gaussian of full covariance of its other rows."""
    torch.manual_seed(0)
    return [
        gaussian_log_prob(known_rows(fold, data.levels)[..., None], fold.test[..., None], data.levels) + offset(data, fold)
        for fold in data.folds
    ]


def check_independent(known: Tensor, columns: list[str]) -> None:
    """Raises ValueError where a column of rows (N, D) is a linear function of those before it, as is always so where D >= N."""
    factor = torch.linalg.qr(known - known.mean(dim=0), mode="r").R  # its diagonal is what those before leave over
    dependent = factor.diagonal().abs() < DEPENDENT * factor.norm(dim=0)[: len(factor)]
    if dependent.any():
        names = ", ".join(columns[i] for i in dependent.nonzero().flatten())
        raise ValueError(f"`data` must have no column that follows from those before it, {names}: leave it out, or add rows.")


def row(name: str, data: Data, log_probs: list[Tensor], fitted: Fitted | None = None) -> dict[str, Any]:
    """Returns a line of the table: means and medians over test rows, in nats per row, and what the run cost.

    The interval is over folds where there are several, else over test rows. Where a likelihood is not finite, there is no mean.
    """
    everything = torch.cat(log_probs).double()
    several = len(log_probs) > 1
    finite = bool(everything.isfinite().all())
    mean = mean_interval([x.mean().item() for x in log_probs] if several else everything.tolist()) if finite else None
    line: dict[str, Any] = {"model": name, "test log p": mean, "median": everything.median() if finite else None}
    if several:
        line["worst fold"] = min(x.mean().item() for x in log_probs) if finite else None
    if data.levels:
        line["bits/dim"] = -everything.mean().item() / len(data.columns) / math.log(2)
    if data.shape:
        true = torch.cat([data.shape.log_prob(fold.test) for fold in data.folds])
        line["KL to the truth"] = mean_interval((true - everything).tolist()) if finite else None
    if fitted:
        trained = [p for p in fitted.models[0].parameters() if p.requires_grad]
        line["parameters"] = sum(p.numel() for p in trained)
        line["seconds"] = sum(history.seconds for history in fitted.histories)
    return line


def rows(data: Data, fitted: Fitted) -> list[dict[str, Any]]:
    """Returns the table: the truth where it is known, the Gaussian, and the flow."""
    truth = [row("the truth", data, [data.shape.log_prob(fold.test) for fold in data.folds])] if data.shape else []
    return [*truth, row("Gaussian", data, baseline(data)), row(fitted.name, data, fitted.log_probs, fitted)]


def offset(data: Data, fold: Fold) -> float:
    """Returns the nats to add to log p of a stored row for log p in the units that are reported.

    For standardized columns x / s that is sum log s, for pictures' levels L x in [0, L) it is -D log L.
    """
    if data.levels:
        return -len(data.columns) * math.log(data.levels)
    return known_rows(fold).std(dim=0, correction=0).log().sum().item() if data.standardized else 0.0


def known_rows(fold: Fold, levels: int | None = None) -> Tensor:
    """Returns all rows that are not tested: those to train with, which get the noise of `dequantize`, and those to stop by."""
    return torch.cat([dequantize(fold.train, levels), fold.validation])


def dequantize(x: Tensor, levels: int | None) -> Tensor:
    """Returns x with fresh uniform noise of one gray level; as it is where there are no levels."""
    return x + torch.rand_like(x) / levels if levels else x


def blur(x: Tensor, spread: Tensor) -> Tensor:
    """Returns x with fresh Gaussian noise of a standard deviation."""
    return x + spread * torch.randn_like(x)
