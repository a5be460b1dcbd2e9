"""What the machine can do at best, measured in the same run as the rest: matrix products and the reading of memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wavflow.benchmarking.timing import Stopwatch

SIDES = {"cpu": (256, 512, 1024), "cuda": (4096, 8192)}  # of the matrices: their products are bound by arithmetic
COPIED = {"cpu": 2**26, "cuda": 2**30}  # bytes, more than any cache holds


@dataclass
class Ceilings:
    """Rates of a device, each the best of some repeats.

    Args:
        stopwatch: Of the device.

    Attributes:
        operations: Multiplications and additions per second of a large matrix product, by dtype; a dtype that the device does
            not multiply is missing.
        copying: Bytes per second, read and written, of a copy that fits no cache.
    """

    stopwatch: Stopwatch
    operations: dict[str, float] = field(init=False)
    copying: float = field(init=False)

    def __post_init__(self) -> None:
        device = self.stopwatch.device
        self.operations = {}
        for name, side in itertools.product(("float32", "bfloat16", "int8"), SIDES.get(device.type, SIDES["cpu"])):
            a = torch.randint(-8, 8, (side, side), device=device).to(getattr(torch, name))
            try:
                timing = self.stopwatch(lambda a=a: torch._int_mm(a, a) if a.dtype == torch.int8 else a @ a)
            except (RuntimeError, NotImplementedError):
                continue
            self.operations[name] = max(self.operations.get(name, 0.0), 2.0 * side**3 / timing.best)
        source = torch.ones(COPIED.get(device.type, COPIED["cpu"]) // 4, device=device, dtype=torch.float32)
        target = torch.empty_like(source)
        self.copying = 2.0 * source.nbytes / self.stopwatch(lambda: target.copy_(source)).best

    def reading(self, size: float) -> float:
        """Returns bytes per second of reading the same so many bytes again and again, from the cache that holds them."""
        values: Tensor = torch.ones(max(1024, int(size) // 4), device=self.stopwatch.device, dtype=torch.float32)
        calls = 1 + 2**24 // values.nbytes  # so many that the clock is no matter
        timing = self.stopwatch(lambda: [values.sum() for _ in range(calls)])
        return calls * values.nbytes / timing.best

    def floor(self, operations: float, read: float, dtype: str, bandwidth: float | None = None) -> float:
        """Returns the seconds that work takes at least: the larger of operations over rate and bytes over bandwidth."""
        return max(operations / self.operations[dtype], read / (bandwidth or self.copying))
