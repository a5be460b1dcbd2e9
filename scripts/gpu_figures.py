"""One kind of figures that a GPU is wanted for; scripts/gpu_session.py calls for all of them.

    python scripts/gpu_figures.py distillation out

They go to out/<kind>.json row by row, so that a kill loses nothing.
"""

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wavflow.benchmarking.ceilings import Ceilings
from wavflow.benchmarking.floors import operations_per_sample
from wavflow.benchmarking.forms import Form, compiled
from wavflow.benchmarking.measure import with_random_weights
from wavflow.benchmarking.report import machine
from wavflow.benchmarking.synthesis import inputs
from wavflow.benchmarking.timing import Stopwatch
from wavflow.benchmarking.training import step, task
from wavflow.devices import pick_device
from wavflow.files import aside
from wavflow.models import student, teacher
from wavflow.nn.wavenet import WaveNet
from wavflow.synthesis import cuda
from wavflow.vocoder import Vocoder

Say = Callable[[dict[str, Any]], None]
SMALL = {"layers": 2, "channels": 4, "features": 4, "dilation_cycle": 2}


def main() -> None:
    """Measures one kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("output", type=Path, help="a folder")
    parser.add_argument("--tiny", action="store_true", help="nets and times of next to nothing")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def say(row: dict[str, Any]) -> None:
        rows.append(row)
        with aside(args.output / f"{args.kind}.json") as part:
            part.write_text(json.dumps(rows, indent=1))
        print({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}, flush=True)

    torch.set_float32_matmul_precision("high")  # as in training: float32 is TF32
    say(machine(pick_device("auto")))
    KINDS[args.kind](args.tiny, say)


def tests(tiny: bool, say: Say) -> None:
    """Runs the tests that are worth more on a GPU."""
    files = [f"tests/test_{name}.py" for name in ("recursion", "fused_layer", "cuda")]
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", *files, *["-k", "captured"] * tiny]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    say({"status": done.returncode, "end": done.stdout[-2000:]})


def attempt(say: Say, row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Notes what was measured, or why it could not be: what was never run on a GPU may fail there in any way."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        say(row | measure())
    except Exception as error:
        say(row | {"error": f"{type(error).__name__}: {error}"[:500]})


def ceilings(tiny: bool) -> Ceilings:
    """Measures the machine itself."""
    return Ceilings(Stopwatch(pick_device("auto"), 1 if tiny else 10, 10.0))


def nets(tiny: bool, **changes: Any) -> tuple[Vocoder, Vocoder]:
    """Returns a student and a teacher, full or tiny, with random weights."""
    built = (
        student(**SMALL if tiny else {}),
        teacher(**(SMALL if tiny else {"layers": 24, "channels": 128, "dilation_cycle": 8} | changes)),
    )
    return tuple(with_random_weights(net).to(pick_device("auto")) for net in built)


def fused(vocoder: Vocoder) -> Vocoder:
    """Returns a copy with the fused layer."""
    from wavflow.synthesis.fused_layer import use_fused  # Triton is not everywhere

    return use_fused(copy.deepcopy(vocoder))


def student_draws(tiny: bool, say: Say, compile: bool = False) -> None:
    """Draws 10 s, from graphs of several lengths and kernels; with the whitening, which is undone on the CPU."""
    found, net = ceilings(tiny), nets(tiny)[0]
    mel, noise = inputs(net, 0.2 if tiny else 10.0)

    def measure(frames: int, change: Callable[[Vocoder], Vocoder], compile: bool) -> dict[str, Any]:
        draw = cuda.StudentDraw(change(net), frames=frames, compiled=compile)
        timing = found.stopwatch(lambda: draw.sample(mel, noise))
        samples = noise.shape[-1]
        floor = found.floor(samples * operations_per_sample(net), 0.0, "bfloat16")
        return {"x real time": samples / net.sample_rate / timing.median, "MFU": floor / timing.median} | timing.row

    attempt(say, {"whitening": "alone, on the CPU"}, lambda: found.stopwatch(lambda: cuda.colour(net, noise[:, None], mel)).row)
    for name, change in (("eager", copy.deepcopy), ("fused", fused))[: 1 if compile else 2]:
        for frames in (8, 16) if tiny else (512,) if compile else (256, 512, 862):
            row = {"frames": frames, "layers": name, "compiled": compile}
            attempt(say, row, partial(measure, frames, change, compile))


def teacher_draws(tiny: bool, say: Say) -> None:
    """Draws 8 frames sample by sample, some steps to a graph."""
    stopwatch = Stopwatch(pick_device("auto"), 3, 10.0)

    def measure(net: Vocoder, steps: int) -> dict[str, Any]:
        cuda.STEPS = steps
        mel, noise = inputs(net, (2 if tiny else 8) * net.hop_length / net.sample_rate)
        draw, cond = cuda.TeacherDraw(net.flow, 1, net.hop_length), net.conditioning(mel)
        timing = stopwatch(lambda: draw.sample(noise[:, None], cond))
        return {"samples/s": noise.shape[-1] / timing.median} | timing.row

    for layers, channels, cycle in ((20, 64, 10), (24, 128, 8)):
        net = nets(tiny, layers=layers, channels=channels, dilation_cycle=cycle)[1]
        for steps in (1, 16, 64):
            attempt(say, {"layers": layers, "channels": channels, "steps": steps}, partial(measure, net, steps))


def training_steps(distil: bool, tiny: bool, say: Say, compile: bool = False) -> None:
    """Takes steps in bfloat16, with each kind of layer; the shares are of what this machine does with matrices and copies.

    MFU counts a pass back as two forward, or one where the weights are frozen. So does the least traffic, which is that of one
    kernel to a layer: h and skip are read and written.
    """
    found, (taught, likely) = ceilings(tiny), nets(tiny)
    net, frozen = (taught, likely) if distil else (likely, None)
    batch, frames = (2, 4) if tiny else (16, 94) if distil else (32, 63)
    mel, audio = inputs(net, frames * net.hop_length / net.sample_rate, batch)
    given = {"audio": 0.1 * audio, "mel": mel, "mask": torch.ones_like(audio)}
    passes = [(net, 3.0)] + ([(frozen, 2.0)] if distil else [])
    operations = audio.numel() * sum(times * operations_per_sample(model) for model, times in passes)
    traffic = audio.numel() * sum(times * bytes_per_sample(model) for model, times in passes)

    def measure(change: Callable[[Vocoder], Vocoder]) -> dict[str, Any]:
        form = Form(change, "bfloat16")
        timing = found.stopwatch(step(task(net, form, frozen), given, form))
        return {
            "steps/s": 1.0 / timing.median,
            "audio seconds/s": audio.numel() / net.sample_rate / timing.median,
            "MFU": operations / found.operations["bfloat16"] / timing.median,
            "bandwidth share": traffic / found.copying / timing.median,
            "GiB": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
        } | timing.row

    for name, change in [("compiled", compiled)] if compile else [("eager", copy.deepcopy), ("fused", fused)]:
        attempt(say, {"layers": name, "batch": list(audio.shape)}, partial(measure, change))


def compiled_forms(tiny: bool, say: Say) -> None:
    """What torch.compile makes of the layers; it takes minutes, so it comes last."""
    if tiny:
        return
    training_steps(True, tiny, say, compile=True)
    training_steps(False, tiny, say, compile=True)
    student_draws(tiny, say, compile=True)


def bytes_per_sample(vocoder: Vocoder) -> float:
    """Returns what one pass has to move in bfloat16 at least, per sample, in nets with a step for each sample."""
    wavenets = (module for module in vocoder.flow.modules() if isinstance(module, WaveNet))
    return sum(2.0 * 2 * len(net.dilations) * (net.channels + net.head.in_features) for net in wavenets)


KINDS = {
    "tests": tests,
    "student": student_draws,
    "teacher": teacher_draws,
    "distillation": partial(training_steps, True),
    "likelihood": partial(training_steps, False),
    "compiled": compiled_forms,
}

if __name__ == "__main__":
    main()
