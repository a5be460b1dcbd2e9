"""Turns a run's model into a release: weights in half precision, and nothing of the machine that trained it.

    python scripts/release.py runs/student/mine/model.safetensors lj-student \\
        --data LJSpeech --fact data="LJSpeech, 17 minutes" --fact licence="public domain"

It prints what rounding costs on held-out clips.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wavflow import Vocoder, load_model, save_model
from wavflow.commands.evaluate import hold_out
from wavflow.data import AudioDataModule
from wavflow.data.split import read_split
from wavflow.evaluation.metrics import log_spectral_distance
from wavflow.evaluation.systems import Clip
from wavflow.models import RELEASED, Model
from wavflow.reporting.intervals import Interval, mean_interval

KEPT = ("steps", "stage", "seconds", "speakers", "split")  # of what a run notes in its model file
LARGEST = 16_000_000  # bytes


def main() -> None:
    """Reads the command line, writes and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run's model.safetensors")
    parser.add_argument("name", help="its name from now on; the file goes to --output")
    parser.add_argument("--output", type=Path, default=RELEASED, help="a folder (default: that of the package)")
    parser.add_argument("--data", type=Path, help="what the run was trained on, for the held-out clips; the bundled corpus")
    parser.add_argument("--split", help="a JSON file of the clips held out, for a run that kept no record of them")
    parser.add_argument("--clips", type=int, default=8, help="of the test files (default: 8)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip (default: 4)")
    parser.add_argument("--fact", action="append", default=[], metavar="KEY=VALUE", help="to note in the file")
    args = parser.parse_args()
    model = load_model(args.model)
    if args.split:
        model.info["split"] = read_split(args.split)
    path = release(model, args.output / f"{args.name}.safetensors", dict(fact.split("=", 1) for fact in args.fact))
    data = AudioDataModule(model.mel, args.data, segment_length=model.hop_length, max_clip_seconds=args.seconds)
    hold_out(data, {"model": model}, {"model": args.model})
    items = zip(data.test_dataloader(), range(args.clips), strict=False)
    cost = rounding(model, load_model(path), [Clip(item["name"][0], item["audio"], item["mel"]) for item, _ in items])
    unit = "nats per sample" if model.scores_in_parallel else "dB of log-spectral distance between draws"
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; rounding costs {cost.mean:.2g} ± {cost.half_width:.2g} {unit}")


def release(model: Model, path: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Writes the release of a model and returns its path.

    Raises:
        ValueError: The file would be larger than a release may be, or a weight is out of float16's range.
    """
    if (size := 2 * sum(weight.numel() for weight in model.state_dict().values())) > LARGEST:
        raise ValueError(f"`model` must fit into {LARGEST / 1e6:g} MB, got {size / 1e6:.1f} MB: release a smaller net.")
    model.info = {name: value for name, value in model.info.items() if name in KEPT} | dict(facts or {})
    save_model(model, path, {"dtype": "float16"}, torch.float16)
    return path


@torch.no_grad()
def rounding(exact: Vocoder, rounded: Vocoder, clips: Sequence[Clip]) -> Interval:
    """Returns how far a rounded model is from the exact one.

    In nats per sample of the clips; where a model does not score in one pass, in dB of log-spectral distance between draws.
    """
    if exact.scores_in_parallel:
        nats = [[model.log_prob(clip.audio, clip.mel).mean().item() for clip in clips] for model in (exact, rounded)]
        return mean_interval(abs(a - b) for a, b in zip(*nats, strict=True))
    noise = [exact.noise(clip.mel, torch.Generator().manual_seed(i)) for i, clip in enumerate(clips)]
    draws = [
        [model.sample(clip.mel, z, passes=0)[0] for clip, z in zip(clips, noise, strict=True)] for model in (exact, rounded)
    ]
    return mean_interval(log_spectral_distance(a, b) for a, b in zip(*draws, strict=True))


if __name__ == "__main__":
    main()
