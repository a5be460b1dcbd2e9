"""How long something takes, and how much arithmetic that is beside what the device can do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Measurement, Timer
from torch.utils.benchmark.utils.timer import timer as wall_clock
from torch.utils.flop_counter import FlopCounterMode

from wavflow.arguments import choose
from wavflow.speakers import first_speaker
from wavflow.vocoder import Vocoder

Row = dict[str, Any]
CLOCKS = {"wall": wall_clock, "processor": time.process_time}


@dataclass
class Meter:
    """Times calls on a device.

    Args:
        device: Where the work is done; a GPU is waited for.
        threads: Of the CPU.
        budget: Least seconds that the repeats of one call take together.
        clock: "wall"; or "processor", CPU time, for a machine that others use too: only with one thread on a CPU is that
            the time that the work takes.
    """

    device: torch.device
    threads: int = 1
    budget: float = 1.0
    clock: str = "wall"
    peaks: dict[torch.dtype, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose("clock", self.clock, CLOCKS)
        if self.clock == "processor" and (self.device.type != "cpu" or self.threads > 1):
            raise ValueError(
                "`clock` processor needs device=cpu and threads=1: elsewhere it is not the time that the work takes."
            )

    def __call__(self, run: Callable[[], Any]) -> Measurement:
        """Times `run` after a first call, which loads and compiles what is needed and is not counted."""
        timer = Timer("run()", timer=CLOCKS[self.clock], globals={"run": run}, num_threads=self.threads)
        return timer.blocked_autorange(min_run_time=self.budget)

    def peak(self, dtype: torch.dtype) -> float:
        """Returns the operations per second of a large matrix product: what no net can exceed."""
        if dtype not in self.peaks:
            side = 8192 if self.device.type == "cuda" else 1024
            matrix = torch.ones(side, side, dtype=dtype, device=self.device)
            self.peaks[dtype] = 2.0 * side**3 / min(self(lambda: matrix @ matrix).times)
        return self.peaks[dtype]


def times(measured: Measurement) -> Row:
    """Returns the columns that every table ends with."""
    return {"median s": measured.median, "IQR s": measured.iqr, "runs": len(measured.times)}


def inputs(vocoder: Vocoder, samples: float, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Returns a mel (B, n_mels, F) of about the level of speech, and noise (B, F * hop_length), for about `samples` samples."""
    frames, generator = max(1, round(samples / vocoder.hop_length)), torch.Generator().manual_seed(0)
    mel = torch.randn(batch, vocoder.mel.n_mels, frames, generator=generator, dtype=torch.float32).sub(6.0).to(vocoder.device)
    return mel, vocoder.noise(mel, generator)


@torch.no_grad()
def operations_per_sample(vocoder: Vocoder) -> float:
    """Returns the multiplications and additions of one parallel pass, as torch counts them, for each sample of audio."""
    weights = next(vocoder.parameters())
    mel, noise = (x.to(weights.dtype) for x in inputs(vocoder, 4 * vocoder.hop_length))
    with FlopCounterMode(display=False) as counter:
        cond = vocoder.conditioning(mel, first_speaker(vocoder))
        run = vocoder.flow.sample if vocoder.draws_in_parallel else vocoder.flow.log_prob
        run(noise.unsqueeze(1), cond)
    return counter.get_total_flops() / noise.numel()
