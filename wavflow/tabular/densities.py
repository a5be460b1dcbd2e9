"""Densities of rows of numbers: a named flow in the data's own units, its model file, and what it is compared with."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encoded
from torch import Tensor
from torch.nn import functional as F

from wavflow.arguments import at_least_float32, choose, reason
from wavflow.files import write_bytes
from wavflow.flows import ActNorm, Chain, Flow, Transform
from wavflow.flows.named import gaussianization, glow, iaf, maf, mintnet, nice, real_nvp

FLOWS = {make.__name__: make for make in (nice, real_nvp, glow, maf, iaf, mintnet, gaussianization)}
FORMAT = "wavflow-density"
ALPHA = 0.05


class Logit(Transform):
    """`z = logit(alpha + (1 - 2 alpha) x)` for x in [0, 1], so that a picture's gray levels fill the line.

    References:
        Real-NVP (Dinh et al., 2017), section 4.1, with its alpha of .05, https://arxiv.org/abs/1605.08803
    """

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns z (B, C, T) and log |dz/dx| (B, T)."""
        z = torch.logit(ALPHA + (1 - 2 * ALPHA) * at_least_float32(x))
        return z, -self._log_slope(z).sum(dim=1)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Returns x (B, C, T) and log |dx/dz| (B, T)."""
        z = at_least_float32(z)
        return (torch.sigmoid(z) - ALPHA) / (1 - 2 * ALPHA), self._log_slope(z).sum(dim=1)

    def _log_slope(self, z: Tensor) -> Tensor:
        """Log |dx/dz|, elementwise."""
        return F.logsigmoid(z) + F.logsigmoid(-z) - torch.log(z.new_tensor(1 - 2 * ALPHA))


def preparation(levels: int | None, features: int) -> list[Transform]:
    """Returns the untrained maps before every flow: for pictures the logit, then each column to mean 0 and deviation 1."""
    return [Logit()] * (levels is not None) + [ActNorm(features).requires_grad_(False)]


def density(flow: dict[str, Any], features: int, levels: int | None = None) -> Flow:
    """Builds an untrained density of rows (B, features, 1) in the data's own units; call `initialize` with data.

    Args:
        flow: `name`, one of `FLOWS`, and arguments of that function.
        features: D.
        levels: Not None for pictures, rows in [0, 1].

    Raises:
        ValueError: On another name or an argument that the flow does not take.
    """
    arguments = dict(flow)
    make = choose("flow.name", name := arguments.pop("name", None), FLOWS)
    known = [argument for argument in inspect.signature(make).parameters if argument not in ("features", "cond_channels")]
    if unknown := arguments.keys() - set(known):
        raise ValueError(f"`flow.{min(unknown)}`: {name} takes no such argument: choose among {', '.join(known)}.")
    core = make(features, **arguments)
    return Flow(Chain([*preparation(levels, features), core.transform]), core.base)


def gaussian_log_prob(train: Tensor, test: Tensor, levels: int | None = None) -> Tensor:
    """Returns the log-densities (M,) of rows `test` (M, D, 1) under the Gaussian of full covariance of rows `train`."""
    maps = Chain(preparation(levels, train.shape[1])).to(train.dtype)
    maps.initialize(train)
    (known, _), (z, log_det) = maps(train), maps(test)
    covariance = torch.cov(known[..., 0].T).reshape(known.shape[1], -1)  # of one column `cov` is a scalar
    normal = torch.distributions.MultivariateNormal(known.mean(dim=0)[:, 0], covariance)
    return normal.log_prob(z[..., 0]) + log_det[:, 0]


def save(model: Flow, path: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """Writes weights and configuration, the arguments of `density`, to one .safetensors file."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, encoded(weights, {"format": FORMAT, "config": json.dumps(config)}))


def load(path: str | os.PathLike[str]) -> Flow:
    """Loads a density written by `save`. Nothing is unpickled, and only `FLOWS` are built.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is not a whole density.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path`: there is no model file {path}: train one with `python -m wavflow.density`.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError("it is no density of wavflow")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        model = density(**json.loads(metadata["config"]))
        model.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"`path`: {path} is not a whole density file ({reason(error)}): train it again.") from error
    return model.eval().requires_grad_(False)
