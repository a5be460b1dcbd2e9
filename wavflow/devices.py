"""Where and how exactly a model computes: devices and precisions by name, `auto` among them."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """Returns the device of a name; `auto` is a GPU where there is one.

    Raises:
        ValueError: When torch knows no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown; not built in; no data, as of `meta`
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")[:100]
        raise ValueError(f"`device` {name!r} can't be used here ({reason}): try cpu, or auto.") from error
    return torch.device(name)


def pick_precision(name: str) -> str:
    """Returns Lightning's name of a precision; `auto` is bf16-mixed where the GPU or the processor is made for it."""
    if name != "auto":
        return name
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if fast else "32-true"
