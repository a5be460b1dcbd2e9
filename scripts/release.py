"""Turns a run's model into a release: weights in half precision, what was measured of it, and nothing of the machine.

    python scripts/release.py runs/student/mine/model.safetensors lj-student --teacher runs/teacher/mine/model.safetensors \\
        --data LJSpeech --fact data="LJSpeech, 17 minutes" --fact licence="public domain"

Of float16 and bfloat16 it takes what moves the model less, and prints what rounding costs on held-out clips.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wavflow import Vocoder, load_model, save_model
from wavflow.data import AudioDataModule
from wavflow.data.split import read_split
from wavflow.evaluate import hold_out
from wavflow.evaluation.metrics import log_spectral_distance
from wavflow.evaluation.systems import Clip, divergences, likelihoods
from wavflow.models import HALVES, RELEASED
from wavflow.reporting.intervals import mean_interval
from wavflow.reporting.tables import markdown_table

KEPT = ("steps", "stage", "seconds", "speakers", "split")  # of what a run notes in its model file
LARGEST = 16_000_000  # bytes


def main() -> None:
    """Rounds, measures, chooses and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run's model.safetensors")
    parser.add_argument("name", help="its name from now on; the file goes to --output")
    parser.add_argument("--output", type=Path, default=RELEASED, help="a folder (default: that of the package)")
    parser.add_argument("--teacher", help="of a student, for the KL")
    parser.add_argument("--data", type=Path, help="what the run was trained on, for the held-out clips; the bundled corpus")
    parser.add_argument("--split", help="a JSON file of the clips held out, for a run that kept no record of them")
    parser.add_argument("--clips", type=int, default=8, help="of the test files (default: 8)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip (default: 4)")
    parser.add_argument("--fact", action="append", default=[], metavar="KEY=VALUE", help="to note in the file")
    args = parser.parse_args()
    model, teacher = load_model(args.model), args.teacher and load_model(args.teacher)
    if args.split:
        model.info["split"] = read_split(args.split)
    data = AudioDataModule(model.mel, args.data, segment_length=model.hop_length, max_clip_seconds=args.seconds)
    hold_out(data, {"model": model} | ({"teacher": teacher} if teacher else {}), {"model": args.model, "teacher": args.teacher})
    clips = [
        Clip(item["name"][0], item["audio"], item["mel"])
        for item, _ in zip(data.test_dataloader(), range(args.clips), strict=False)
    ]
    facts = dict(fact.split("=", 1) for fact in args.fact)
    path = release(model, args.output / f"{args.name}.safetensors", clips, teacher, facts)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {load_model(path).info}")


def release(
    model: Vocoder, path: Path, clips: Sequence[Clip], teacher: Vocoder | None = None, facts: Mapping[str, Any] | None = None
) -> Path:
    """Writes the release of a model and returns its path; the figures are printed.

    Raises:
        ValueError: The file would be larger than a release may be.
    """
    model.info = {name: value for name, value in model.info.items() if name in KEPT} | dict(facts or {})
    with tempfile.TemporaryDirectory() as folder:
        variants, files = {"float32": model}, {}
        for dtype in HALVES:
            name = str(dtype).removeprefix("torch.")
            files[name] = Path(folder) / f"{name}.safetensors"
            save_model(model, files[name], {"dtype": name}, dtype)
            variants[name] = load_model(files[name])
        rows = costs(clips, variants, teacher)
        print(markdown_table(rows))
        chosen = min(files, key=lambda name: next(row["moved"] for row in rows if row["weights"] == name))
        if (size := files[chosen].stat().st_size) > LARGEST:
            raise ValueError(f"`model` must fit into {LARGEST / 1e6:g} MB, got {size / 1e6:.1f} MB: release a smaller net.")
        save_model(variants[chosen], path, dtype=getattr(torch, chosen))
    return path


def costs(clips: Sequence[Clip], variants: Mapping[str, Vocoder], teacher: Vocoder | None = None) -> list[dict[str, Any]]:
    """Returns a row for each variant of one model, the exact one first.

    `moved` is how far a variant is from the exact one: in nats per sample of the recordings, mean of the clips' sizes; or, of a
    student, in dB of log-spectral distance between draws from the same noise.
    """
    exact = next(iter(variants.values()))
    if exact.scores_in_parallel:
        table, curves = likelihoods(clips, variants)
        nats = {row["likelihood of"]: row["nats/sample"] for row in table}
        moved = {
            name: mean_interval(abs(float((own[name] - next(iter(own.values()))).mean())) for own in curves.values())
            for name in variants
        }
        return [{"weights": name, "nats/sample": nats[name], "moved": moved[name]} for name in variants]
    kl = {}
    if teacher is not None:
        kl = {row["divergence of"]: row["KL"] for row in divergences(clips, teacher, variants)}
    noise = [exact.noise(clip.mel, torch.Generator().manual_seed(i)) for i, clip in enumerate(clips)]
    drawn = {
        name: [own.sample(clip.mel, z, passes=0)[0] for clip, z in zip(clips, noise, strict=True)]
        for name, own in variants.items()
    }

    def distance(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Any:
        return mean_interval(log_spectral_distance(a, b) for a, b in zip(one, other, strict=True))

    recordings, first = [clip.audio[0] for clip in clips], next(iter(drawn.values()))
    return [
        {"weights": name, "KL": kl.get(name), "LSD dB": distance(audio, recordings), "moved": distance(audio, first)}
        for name, audio in drawn.items()
    ]


if __name__ == "__main__":
    main()
