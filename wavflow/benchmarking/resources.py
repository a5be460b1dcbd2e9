"""What synthesis costs: seconds and memory against the length of the audio."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from wavflow.models import load_model

STATUS = Path("/proc/self/status")
"""Where Linux tells a process of its memory."""


def synthesis_costs(model: str | Path, seconds: Sequence[float], device: str = "cpu") -> list[dict[str, float]]:
    """Synthesizes so many seconds of audio, each in a process of its own, and returns a row of costs for each.

    Peak memory is the process's largest resident set (on a GPU what torch had allocated at most): while it synthesizes,
    above what it was with the model loaded; and in all.

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
    frames = max(1, round(seconds * vocoder.sample_rate / vocoder.hop_length))
    mel = torch.full((1, vocoder.mel.n_mels, frames), -6.0, device=device)
    speaker = None if vocoder.speakers is None else torch.zeros(1, dtype=torch.long, device=device)
    vocoder.sample(mel[..., :8], speaker=speaker)  # load what is loaded lazily
    loading, idle = _peak_mebibytes(device), _start_counting_mebibytes(device)
    started = time.perf_counter()
    audio = vocoder.sample(mel, speaker=speaker)
    peak = _peak_mebibytes(device)
    elapsed = time.perf_counter() - started
    made = audio.shape[-1] / vocoder.sample_rate
    return {
        "seconds of audio": made,
        "x real time": made / elapsed,
        "MiB above idle": peak - idle,
        "MiB in all": max(peak, loading),
    }


def _start_counting_mebibytes(device: str) -> float:
    """Returns the memory in use, from where on the peak counts: what loading took for a moment would hide the rest."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not STATUS.exists():
        return _peak_mebibytes(device)
    with contextlib.suppress(OSError):  # where it is not allowed, the figure comes out too high
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mebibytes("VmRSS")


def _peak_mebibytes(device: str) -> float:
    """Returns the most memory that was in use at once since the count began."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    if STATUS.exists():
        return _status_mebibytes("VmHWM")
    import resource  # not on Windows, where only this figure is missing

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _status_mebibytes(name: str) -> float:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("seconds", type=float)
    parser.add_argument("device")
    arguments = parser.parse_args()
    print(json.dumps(_measure(arguments.model, arguments.seconds, arguments.device)))
