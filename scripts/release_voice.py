"""Turns a run of stage=text into a voice to release: in half precision, of the speakers that are named.

    python scripts/release_voice.py runs/text/mine/model.safetensors kathleen-text --speakers kathleen \\
        --fact data="Kathleen, 27 minutes" --fact licence="CC0 1.0"

It prints what rounding changes in a spoken sentence.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from release import release

import wavflow
from wavflow.models import RELEASED, build
from wavflow.speakers import speaker_id
from wavflow.text_to_mel import TextToMel

SENTENCE = "The voice of this sentence is the one that is released."


def main() -> None:
    """Reads the command line, writes and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run's model.safetensors")
    parser.add_argument("name", help="its name from now on; the file goes to --output")
    parser.add_argument("--speakers", nargs="+", default=[], help="those to keep, in this order (default: all)")
    parser.add_argument("--output", type=Path, default=RELEASED, help="a folder (default: that of the package)")
    parser.add_argument("--fact", action="append", default=[], metavar="KEY=VALUE", help="to note in the file")
    args = parser.parse_args()
    model = wavflow.load_model(args.model, kind=TextToMel)
    if args.speakers:
        model = of_speakers(model, args.speakers)
    held_out = model.info.get("split", {})
    model.info["split"] = {part: [Path(name).name for name in names] for part, names in held_out.items()}  # of any folder
    path = release(model, args.output / f"{args.name}.safetensors", dict(fact.split("=", 1) for fact in args.fact))
    voice = None if model.speakers is None else torch.tensor([0])
    mels = [m.sample(SENTENCE, 0.0, speaker=voice) for m in (model, wavflow.load_model(path, kind=TextToMel))]
    frames = min(mel.shape[-1] for mel in mels)
    change = (mels[0][..., :frames] - mels[1][..., :frames]).abs().mean()
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; rounding changes the mel of a sentence by {change:.2g} nats on average")


def of_speakers(model: TextToMel, names: Sequence[str]) -> TextToMel:
    """Returns a model of some of a model's speakers, in this order; one alone needs no name any more."""
    kept = torch.cat([speaker_id(name, model) for name in names])
    smaller = build({**(model.config or {}), "n_speakers": len(names) if len(names) > 1 else 0})
    smaller.load_state_dict({**model.state_dict(), "voices.weight": model.voices.weight[kept]})
    smaller.info = {**model.info, "speakers": list(names) if len(names) > 1 else []}
    return smaller.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
