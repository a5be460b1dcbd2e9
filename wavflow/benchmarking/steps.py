"""Drawing sample by sample: the steps of a teacher, and the solver that takes all samples at once, again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wavflow.benchmarking.ceilings import Ceilings
from wavflow.benchmarking.floors import operations_per_sample, weights_per_step
from wavflow.benchmarking.synthesis import inputs
from wavflow.flows.solver import Solution
from wavflow.synthesis.steps import StepEngine
from wavflow.vocoder import Vocoder

SHORT = 512  # samples, at most, for what draws some hundred in a second
TOLERANCE = 1e-5  # of the solver

Draw = Callable[[Tensor, Any], Any]  # of noise (1, 1, T) and conditioning


def engines(vocoder: Vocoder) -> dict[str, tuple[Draw, str, bool]]:
    """Returns what can draw from a teacher here: the call, its dtype, and whether it is fast enough for whole seconds."""
    flow, found = vocoder.flow, {}
    if StepEngine.supports(flow) and vocoder.device.type == "cpu":
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            found[f"step engine, {name}"] = (StepEngine(flow, dtype).sample, name, True)
    found["eager steps, float32"] = (flow.sample, "float32", False)
    if hasattr(flow.transform, "solve"):
        found["solver, float32"] = (lambda z, cond: flow.transform.solve(z, cond, TOLERANCE), "float32", False)
    return found


@torch.no_grad()
def sampling(name: str, vocoder: Vocoder, seconds: float, ceilings: Ceilings) -> list[dict[str, Any]]:
    """Draws by each engine; the whitening, which is undone in one pass, is left out.

    The floor of a step is the larger of its operations and the reading of the weights that wait for the sample before it. The
    solver may do better, as it reads them once for all samples.
    """
    rows = []
    for engine, (draw, dtype, is_fast) in engines(vocoder).items():
        frames = max(1, min(SHORT // vocoder.hop_length, round(seconds * vocoder.sample_rate / vocoder.hop_length)))
        mel, noise = inputs(vocoder, seconds if is_fast else frames * vocoder.hop_length / vocoder.sample_rate)
        z, cond, samples = noise.unsqueeze(1), vocoder.conditioning(mel), noise.shape[-1]
        found: list[Any] = []
        timing = ceilings.stopwatch(lambda d=draw, x=(z, cond), f=found: f.append(d(*x)))
        size = weights_per_step(vocoder) * getattr(torch, dtype).itemsize
        floor = samples * ceilings.floor(operations_per_sample(vocoder), size, dtype, ceilings.reading(size))
        solution = found[-1] if isinstance(found[-1], Solution) else None
        rows.append(
            {
                "model": name,
                "engine": engine,
                "samples": samples,
                "samples/s": samples / timing.median,
                "x real time": samples / timing.median / vocoder.sample_rate,
                "sweeps": solution and solution.sweeps,
                "residual": solution and solution.residual,
                "floor s": floor,
                "share of floor": None if solution else floor / timing.median,
                **timing.row,
            }
        )
    return rows
