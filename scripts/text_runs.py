"""What the scripts that judge a text model share: their options, the models and the texts of a speaker."""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

import wavflow
from wavflow import Vocoder
from wavflow.data.corpora import read_table
from wavflow.data.split import Split, file_name, read_split
from wavflow.speakers import speaker_id
from wavflow.text_to_mel import GUIDANCE, TEMPERATURE, TextToMel


class TextRun(NamedTuple):
    """A run of stage=text, and what it is judged by."""

    model: TextToMel
    vocoder: Vocoder
    voice: torch.Tensor | None  # id (1,) of the speaker
    split: Split
    texts: dict[str, tuple[Path, str]]  # of the speaker: name in the split to audio file and text, in the table's order


def options(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of what `load` needs, and of how many sentences are spoken and how."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of stage=text")
    parser.add_argument("--path", type=Path, required=True, help="folder of the audio")
    parser.add_argument("--table", type=Path, required=True, help="CSV file with path, text and speaker")
    parser.add_argument("--speaker", required=True)
    parser.add_argument("--vocoder", default="lj-student")
    parser.add_argument("--count", type=int, default=24, help="held-out sentences")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    return parser


def load(arguments: argparse.Namespace) -> TextRun:
    """Loads what the options name."""
    model = wavflow.load_model(arguments.run / "model.safetensors", kind=TextToMel)
    voice = speaker_id(arguments.speaker, model) if model.speakers is not None else None
    speakers, texts = (read_table(arguments.table, arguments.path, column) for column in ("speaker", "text"))
    own = [path for path, speaker in speakers.items() if speaker == arguments.speaker]
    texts = {file_name(path, arguments.path): (path, texts[path]) for path in own}
    return TextRun(model, wavflow.load_model(arguments.vocoder), voice, read_split(arguments.run / "split.json"), texts)
