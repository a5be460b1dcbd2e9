"""How much memory and time sampling takes for each length of audio; run as a script, it measures one length."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from wavflow.benchmarking.timing import inputs
from wavflow.models import load_model
from wavflow.speakers import first_speaker

STATUS = Path("/proc/self/status")
"""Linux's figures on the memory of this process."""


def synthesis_costs(model: str | Path, seconds: Sequence[float], device: str = "cpu") -> list[dict[str, float]]:
    """Samples audio of each length from a model file, each in a process of its own, and returns a row for each.

    Memory is the process's largest resident set (on a GPU the most that torch allocated): how far it rises above that of the
    loaded model while it samples; and in all.

    Raises:
        RuntimeError: When a process fails.
    """
    rows = []
    for length in seconds:
        command = [sys.executable, "-m", __name__, str(model), str(length), str(device)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"measuring {length} s of {model} failed: {(result.stderr.splitlines() or ['no message'])[-1]}")
        rows.append(json.loads(result.stdout.splitlines()[-1]))
    return rows


def _measure(model: str, seconds: float, device: str) -> dict[str, float]:
    vocoder = load_model(model, device)
    mel, noise = inputs(vocoder, seconds * vocoder.sample_rate)
    speaker, on_gpu = first_speaker(vocoder), vocoder.device.type == "cuda"
    vocoder.sample(mel[..., :8], speaker=speaker)  # load what is loaded when it is first needed
    loading, idle = _peak(on_gpu), _start_counting(on_gpu)
    started = time.perf_counter()
    vocoder.sample(mel, noise, speaker=speaker)
    peak, elapsed = _peak(on_gpu), time.perf_counter() - started
    made = noise.shape[-1] / vocoder.sample_rate
    return {
        "seconds of audio": made,
        "x real time": made / elapsed,
        "MiB above idle": peak - idle,
        "MiB in all": max(peak, loading),
    }


def _start_counting(on_gpu: bool) -> float:
    """Returns the MiB in use and resets the peak, which loading may have raised far above them."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    with contextlib.suppress(OSError):  # where this is not allowed, what sampling adds may not show
        Path("/proc/self/clear_refs").write_text("5")
    return _peak(on_gpu)


def _peak(on_gpu: bool) -> float:
    """Returns the most MiB that were in use at once since the count began."""
    if on_gpu:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    import resource  # not on Windows, where only this value is missing

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    model, seconds, device = sys.argv[1:]
    print(json.dumps(_measure(model, float(seconds), device)))
