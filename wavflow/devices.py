"""Where and how exactly a model computes: devices and precisions by name, `auto` among them."""

from __future__ import annotations

import os

import torch


def pick_device(name: str) -> torch.device:
    """Returns the device of a name, for `auto` a GPU where there is one; ValueError for what torch can't use here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown; not built in; no data, as of `meta`
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")[:100]
        raise ValueError(f"`device` {name!r} can't be used here ({reason}): try cpu, or auto.") from error
    return torch.device(name)


def nth_device(name: str, number: int) -> torch.device:
    """Returns the device of one of several processes: GPUs have numbers, a CPU serves all processes.

    A GPU that the process alone sees, as SLURM may bind them, is its own whatever its number.
    """
    device = pick_device(name)
    if device.type == "cpu" or device.index is not None or number == 0:
        return device
    if "SLURM_LOCALID" in os.environ and device.type == "cuda" and torch.cuda.device_count() == 1:
        return device
    return pick_device(f"{device.type}:{number}")


def pick_precision(name: str) -> str:
    """Returns Lightning's name of a precision; `auto` is bf16-mixed where the GPU or the processor is made for it."""
    if name != "auto":
        return name
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if fast else "32-true"
