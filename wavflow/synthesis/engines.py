"""Which engine draws for a model: made when it is first needed, and anew when the model holds other weights."""

from __future__ import annotations

from typing import Any

import torch

from wavflow.kernels import compiles
from wavflow.synthesis.parallel import ParallelEngine
from wavflow.synthesis.steps import StepEngine


class Engines:
    """The engines of one model, one for each dtype of their matrices.

    An engine holds a copy of the weights. They can change in ways that torch does not count, such as a copy into `.data`. So
    the values from which the engines were made are kept, and each call compares them: 1 ms for a million weights, a thirtieth
    of what a draw of eight frames takes.
    """

    def __init__(self) -> None:
        self._values: list[torch.Tensor] = []
        self._made: dict[torch.dtype, StepEngine | ParallelEngine] = {}

    def __reduce__(self) -> tuple[type[Engines], tuple[()]]:
        """Makes copies of a model start without engines: they hold the weights once more."""
        return Engines, ()

    def get(self, vocoder: Any, dtype: torch.dtype) -> StepEngine | ParallelEngine | None:
        """Returns the engine that draws with what the vocoder holds now; None where none can. See `Vocoder.engine`."""
        if not compiles() or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in vocoder.parameters()):
            return None
        values = [*vocoder.parameters(), *vocoder.buffers()]
        if len(values) != len(self._values) or not all(map(_equal, values, self._values)):
            self._values, self._made = [value.detach().clone() for value in values], {}
        if dtype not in self._made:
            if StepEngine.supports(vocoder.flow):
                self._made[dtype] = StepEngine(vocoder.flow, dtype)
            elif ParallelEngine.supports(vocoder):
                self._made[dtype] = ParallelEngine(vocoder, dtype)
        return self._made.get(dtype)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
