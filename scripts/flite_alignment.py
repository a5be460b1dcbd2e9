"""How well phones are found in speech whose times are known: Flite tells when each phone that it speaks ends.

    python scripts/flite_alignment.py --table corpus/metadata.csv --output runs/flite --minutes 15

Flite's voice `slt` reads the sentences of the tables, and says its phones as it goes. A text model learns from the sounds and
the order of the phones alone. Then this prints how far the boundaries that it finds in held-out sentences are from the true
ones. Where the folder holds a corpus or a model it goes on with them: `--minutes` counts all training.

References:
    Flite: a small, fast run-time synthesis engine (Black and Lenzo, 2001), http://cmuflite.org
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import wavflow
from wavflow.data.corpora import read_table
from wavflow.data.split import file_name, read_split
from wavflow.data.utterances import even_frames
from wavflow.text import symbols_of
from wavflow.text_to_mel import TextToMel

LETTERS = "abcdefghijklmnopqrstuvwxyzабвгдежзиклмнопрстуфхцчшщ"
"""A letter for each of Flite's phones: what the alphabet `characters` reads."""
OPTIONS = (  # frames that overlap little, so that boundaries are sharp; a small net, so that it is the text that tells most
    *("stage=text", "data=folder", "net.alphabet=characters", "audio.sample_rate=16000", "audio.n_fft=512"),
    *("audio.hop_length=160", "audio.win_length=256", "data.segment_length=16000", "data.batch_size=8"),
    *("net.layers=2", "net.blocks=4", "net.block_layers=3", "net.block_channels=64", "stage.optimizer.lr=2e-3"),
    *("trainer.val_check_interval=500", "~callbacks.listen"),  # no vocoder takes such a mel
)


def speak(text: str, path: Path) -> list[tuple[str, float]]:
    """Writes a text spoken; returns its phones, and where each ends in seconds."""
    command = ["flite", "-voice", "slt", "-psdur", "-t", text, "-o", path]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [(phone, float(end)) for phone, end in (token.split(":") for token in printed.split())]


def make_corpus(tables: list[Path], folder: Path) -> None:
    """Speaks the column `text` of tables parted by `|`; `list.csv` names the sounds, their phones as letters, and their times.

    Pauses at the start and at the end become the symbols that frame each text, `" "` and `"."`.
    """
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    texts: list[str] = []
    for table in tables:
        with open(table, encoding="utf-8", newline="") as file:
            texts += filter(None, (row["text"] for row in csv.DictReader(file, delimiter="|", quoting=csv.QUOTE_NONE)))
    names: dict[str, str] = {}
    lines = ["path|text|ends"]
    for i, text in enumerate(dict.fromkeys(texts)):
        path = folder / "audio" / f"{i:04}.wav"
        phones = speak(text, path)
        letters = [names.setdefault(phone, LETTERS[len(names)]) for phone, _ in phones[1:-1]]
        lines.append(f"{path.name}|{''.join(letters)}|{' '.join(str(end) for _, end in phones)}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def boundary_errors(folder: Path) -> np.ndarray:
    """Returns found less true ends of the phones of all held-out sentences, in seconds; without the last of each sentence."""
    model = wavflow.load_model(folder / "run" / "model.safetensors", kind=TextToMel)
    held_out, errors = set(read_split(folder / "run" / "split.json")["test"]), []
    texts, ends = (read_table(folder / "list.csv", folder / "audio", column) for column in ("text", "ends"))
    for path, text in texts.items():
        if file_name(path, folder / "audio") not in held_out:
            continue
        audio, _ = wavflow.read_audio(path, model.mel.sample_rate)
        mel = model.mel(audio[None].float())
        with torch.inference_mode():
            mel = mel[..., : even_frames(len(audio), model.mel)]
            durations = model.log_prob(mel, model.encode(text)).durations[0].sum(dim=-1)
        found = durations.cumsum(0).numpy() * model.mel.hop_length / model.mel.sample_rate
        true = np.array(ends[path].split(), float)
        assert len(true) == len(symbols_of(text, "characters")), "a phone is a symbol"
        errors.append((found - true)[:-1])
    return np.concatenate(errors)


def main() -> None:
    """Makes the corpus, trains, and prints how far off the boundaries are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, nargs="+", required=True, help="CSV files parted by |, with a column text")
    parser.add_argument("--output", type=Path, required=True, help="folder of corpus and run")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training in all")
    parser.add_argument("options", nargs="*", help="further options of wavflow.train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.output
    if not (folder / "list.csv").exists():
        make_corpus(arguments.table, folder)
    options = [*OPTIONS, f"data.path={folder / 'audio'}", f"data.table={folder / 'list.csv'}", f"output={folder / 'run'}"]
    options += [f"minutes={arguments.minutes}", "resume=auto", *arguments.options]
    subprocess.run([sys.executable, "-m", "wavflow.train", *options], check=True)
    errors = boundary_errors(folder)
    sizes, bias = np.abs(errors), np.median(errors)
    print(f"{len(errors)} boundaries: {np.mean(sizes <= 0.02):.3f} within 20 ms, {np.mean(sizes <= 0.05):.3f} within 50 ms")
    print(f"error: median {1000 * np.median(sizes):.1f} ms, bias {1000 * bias:+.1f} ms")


if __name__ == "__main__":
    main()
