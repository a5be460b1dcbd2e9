"""Constants that keep their precision when a model is cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose buffers follow it to a device, but keep their dtype through `half()`, `float()` or `to(dtype)`.

    Meant for tables that are computed once: a filter made of rounded ones is another filter, and may be unstable.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None:
                self._buffers[name] = buffer.to(moved.device)
        return self
