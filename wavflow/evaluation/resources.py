"""What synthesis costs: seconds and memory against the length of the audio."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from wavflow.models import load_model


def synthesis_costs(model: str | Path, seconds: Sequence[float], device: str = "cpu") -> list[dict[str, float]]:
    """Synthesizes so many seconds of audio, each in a process of its own, and returns a row of costs for each.

    Peak memory is the process's largest resident set (on a GPU what torch had allocated at most), above what it was with
    the model loaded.

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
    vocoder.sample(mel[..., :8])  # load what is loaded lazily
    before = _peak_mebibytes(device)
    started = time.perf_counter()
    audio = vocoder.sample(mel)
    elapsed = time.perf_counter() - started
    made = audio.shape[-1] / vocoder.sample_rate
    return {
        "seconds of audio": made,
        "x real time": made / elapsed,
        "MiB above idle": _peak_mebibytes(device) - before,
        "MiB in all": _peak_mebibytes(device),
    }


def _peak_mebibytes(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on Windows, where only this figure is missing

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("seconds", type=float)
    parser.add_argument("device")
    arguments = parser.parse_args()
    print(json.dumps(_measure(arguments.model, arguments.seconds, arguments.device)))
