"""A WaveNet over the rows of a folded signal: the conditioner of WaveFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from wavflow.arguments import at_least
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet


class WaveNet2d(WaveNet):
    """Maps rows (B, H, T) to parameters (B, n_params * H, T); those of row i see the rows before i, at all times around t.

    Neighboring samples of the signal are the H rows of one column, so that H sequential steps draw all T * H samples:

        row 0    x[0]  x[4]  x[8]        H = 4: params of x[6] (row 2) see rows 0 and 1,
        row 1    x[1]  x[5]  x[9]        whatever the column within reach
        row 2    x[2]  x[6]  x[10]
        row 3    x[3]  x[7]  x[11]

    All rows of a column share its conditioning. Layers, weights and their start are those of `WaveNet`; only the taps differ.

    Args:
        n_params: Parameters per sample.
        height_kernel_size: Taps across rows, dilation 1.
        **options: See `WaveNet`.

    References:
        WaveFlow (Ping et al., 2020), sections 3.1 and 3.2, https://arxiv.org/abs/1912.01219
    """

    def __init__(self, n_params: int, height_kernel_size: int = 3, **options: Any) -> None:
        at_least(1, height_kernel_size=height_kernel_size)
        super().__init__(1, n_params, causal=False, rows=height_kernel_size, **options)
        self.height_kernel_size = height_kernel_size

    def forward(self, x: Tensor, cond: Conditioning | Tensor | None = None) -> Tensor:
        """Returns parameters (B, n_params * H, T) for rows (B, H, T) and features at the rate of the columns."""
        cond = self._project(cond)
        rows = functional.pad(x, (0, 0, 1, -1))  # row i is given row i - 1
        h = self._enter(rows.transpose(1, 2).unsqueeze(-1))  # (B, T, H, C)
        skip: Any = 0.0
        for i in range(len(self.dilations)):
            above = [_shifted(h, 2, k) for k in reversed(range(self.height_kernel_size))]
            features = None if cond is None else cond.to_samples(cond.frames[i], x.shape[-1]).unsqueeze(2)
            h, skip = self._layer(i, h, self._taps(above, i), features, skip)
        return self._params(skip).permute(0, 3, 2, 1).flatten(1, 2)

    def stepper(self, cond: Conditioning | Tensor | None = None, batch: int = 1) -> Callable[[Tensor], Tensor]:
        """Returns `step(row (B, T)) -> parameters (B, n_params, T)` of the row below; the first call is given zeros.

        Each layer keeps its rows of before, so that all H steps together cost one forward.
        """
        cond = self._project(cond)
        past: list[list[Tensor]] = [[] for _ in self.dilations]

        def step(row: Tensor) -> Tensor:
            h = self._enter(row.unsqueeze(-1))  # (B, T, C)
            skip: Any = 0.0
            for i, rows in enumerate(past):
                rows.append(h)
                missing = max(0, self.height_kernel_size - len(rows))
                above = [torch.zeros_like(h)] * missing + rows[-self.height_kernel_size :]
                features = None if cond is None else cond.to_samples(cond.frames[i], row.shape[-1])
                h, skip = self._layer(i, h, self._taps(above, i), features, skip)
            return self._params(skip).transpose(1, 2)

        return step

    def _taps(self, rows: list[Tensor], i: int) -> Tensor:
        """Gathers layer i's taps across time from each of these (B, T, ..., C)."""
        side = self.kernel_size // 2
        shifts = [(k - side) * self.dilations[i] for k in reversed(range(self.kernel_size))]
        return torch.cat([_shifted(h, 1, shift) for h in rows for shift in shifts], dim=-1)


def _shifted(h: Tensor, dim: int, steps: int) -> Tensor:
    """Shifts h (B, T, ..., C) along a dimension: to later indices, zeros first, or for negative steps to earlier ones."""
    steps = max(-h.shape[dim], min(steps, h.shape[dim]))  # a signal may be shorter than a dilation
    return functional.pad(h, (0, 0) * (h.dim() - 1 - dim) + (steps, -steps)) if steps else h
