"""`python -m wavflow.prepare`: makes shards of any folder of audio, for data=shards; see --help.

A command and not a script, so that it is installed with the package that reads what it makes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from wavflow.audio import audio_length, check_audio, read_segment
from wavflow.cli import one_line_errors, output_folder, quiet
from wavflow.data.corpora import find_corpus, read_table
from wavflow.data.files import find_audio
from wavflow.data.given import GivenMels, find_mels
from wavflow.data.shards import import_litdata
from wavflow.data.split import SPLITS, file_name, split_files
from wavflow.files import atomic_write
from wavflow.loudness import loudness
from wavflow.mel import MelSpectrogram
from wavflow.mel_files import read_scale
from wavflow.reporting.tables import markdown_table

PEAK = 0.99
"""What no sample exceeds once the loudness is brought to the target."""


class Maker:
    """Makes one piece after the other, in litdata's processes, and notes what became of it in a file of each process.

    A piece that can't be read, or is silent where silence is trimmed, comes out empty instead of not at all: litdata counts
    what it has written to know where to go on.

    Args:
        source: The folder that the files are named from in the shards.
        pieces: File, first sample and length of each, at the mel's rate.
        notes: A folder.
        mel: Gives the sample rate; its frames are stored where `with_mel` is true.
        with_mel: See there.
        trim: Silence is taken off the ends of a piece: what lies that many dB below its loudest; `None` keeps it.
        level: Loudness in LKFS that each piece is brought to; `None` leaves it.
        speakers: File to speaker, of those whose speaker is known.
        given: The mels to store, where they are not to be computed; pieces then begin on a frame.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        pieces: Sequence[tuple[str, int, int]],
        notes: Path,
        mel: MelSpectrogram,
        with_mel: bool = False,
        trim: float | None = None,
        level: float | None = None,
        speakers: dict[str, str] | None = None,
        given: GivenMels | None = None,
    ) -> None:
        self.given = given
        self.source, self.pieces, self.notes = source, pieces, notes
        self.mel, self.with_mel, self.trim, self.level, self.speakers = mel, with_mel, trim, level, speakers or {}

    def __call__(self, number: int) -> dict[str, Any]:
        path, start, length = self.pieces[number]
        torch.set_num_threads(1)  # there is a process for each core
        audio, problem = np.zeros(0, np.int16), None
        mel = np.zeros((self.mel.n_mels, 0), np.float32)
        try:
            sound, skipped = self._shaped(read_segment(path, start, length, self.mel.sample_rate))
            audio = (sound.double() * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy()
            if self.given is not None:
                hop = self.mel.hop_length
                mel = self.given.read(Path(path))[:, start // hop : start // hop + max(1, length // hop)].numpy()
            elif self.with_mel:
                stored = torch.from_numpy(audio.astype(np.float32)) / 32768
                stored = torch.nn.functional.pad(stored, (0, max(0, self.mel.hop_length - len(stored))))
                with torch.no_grad():
                    mel = self.mel(stored[None])[0].numpy()
            start += skipped
        except (ValueError, OSError) as error:
            problem = str(error)
        note = {"number": number, "samples": len(audio), "problem": problem}
        with (self.notes / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(note) + "\n")
        about = {
            "file": Path(os.path.relpath(path, self.source)).as_posix(),
            "start": start / self.mel.sample_rate,
            "sample_rate": self.mel.sample_rate,
            "mel": self.mel.spec if self.with_mel or self.given is not None else None,
            "speaker": self.speakers.get(path),
        }
        return {"audio": audio, "mel": mel, "about": json.dumps(about)}

    def _shaped(self, sound: Tensor) -> tuple[Tensor, int]:
        """Trims and levels; returns how many samples were left out at the beginning, too."""
        first, last = 0, len(sound)
        if self.trim is not None:
            if not sound.any():
                raise ValueError("It is silent.")
            size, hop = self.mel.n_fft, self.mel.hop_length
            power = torch.nn.functional.pad(sound, (0, size)).unfold(0, size, hop).square().mean(dim=1)
            loud = (power > power.max() * 10 ** (-self.trim / 10)).nonzero()
            margin = self.mel.sample_rate // 20  # consonants begin softly
            first, last = max(0, int(loud[0]) * hop - margin), min(last, int(loud[-1]) * hop + size + margin)
            sound = sound[first:last]
        if self.level is not None and sound.any():
            gain = 10 ** ((self.level - loudness(sound, self.mel.sample_rate)) / 20)
            sound = sound * min(gain, PEAK / sound.abs().max().item())
        return sound, first


def prepare(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    mel: MelSpectrogram,
    *,
    with_mel: bool = False,
    trim: float | None = None,
    level: float | None = None,
    table: str | os.PathLike[str] | None = None,
    corpus: str | None = None,
    mels: str | os.PathLike[str] | None = None,
    mel_scale: str | None = None,
    mel_mean: float | str | None = None,
    mel_std: float | str | None = None,
    seconds: float = 30.0,
    shard_megabytes: float = 64.0,
    workers: int = 1,
    validation: float = 0.05,
    test: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Makes shards of a folder of audio; called again after it was killed, it goes on.

    Args:
        source: Folder tree of audio files, of any rate.
        output: Folder for the shards.
        mel: Gives the sample rate.
        with_mel: Whether to store the mels, too.
        trim: See `Maker`.
        level: See `Maker`.
        table: A CSV file that lists the files to take, and their speakers; see `read_table`.
        corpus: A published corpus to take, and to know the speakers of; see `find_corpus`.
        mels: A folder of mels to store instead of computing them, see `AudioDataModule`, as are the next three.
        mel_scale: What these mels are to be converted from.
        mel_mean: A number, or a file.
        mel_std: Likewise.
        seconds: Longer files are cut into equal pieces of at most that.
        shard_megabytes: Size of a shard.
        workers: Processes.
        validation: Fraction of the files.
        test: Fraction of the files.
        seed: Of the split, and of the order of the pieces, which mixes the files of a shard.

    Returns:
        `splits`, rows of figures, and `skipped`, file and reason of each.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: litdata is missing, the folder holds no audio that can be used, or `output` was begun otherwise.
    """
    litdata = import_litdata()
    for name, value in (("seconds", seconds), ("shard_megabytes", shard_megabytes), ("workers", workers)):
        if not value > 0:
            raise ValueError(f"`{name}` must be above 0, got {value}: raise it.")
    if corpus is not None:
        found = find_corpus(corpus, source)
    else:
        found = dict.fromkeys(find_audio(source)) if table is None else read_table(table, source)
    output, lengths, skipped = Path(output), {}, {}
    for path in tqdm(found, "Checking", unit=" files", mininterval=1.0):
        try:
            check_audio(path)
            lengths[path] = audio_length(path, mel.sample_rate)
        except (ValueError, OSError) as error:
            skipped[str(path)] = str(error)
    if not lengths:
        raise ValueError(f"`source` must hold usable audio, but {source} holds none. The first: {next(iter(skipped.values()))}")
    given, scale = None, read_scale(mel_scale, mel_mean, mel_std)
    settings = {"mel": mel.spec, "with_mel": with_mel, "trim": trim, "level": level, "seconds": seconds}
    if paths := find_mels(list(lengths), source, mels, table):
        if trim is not None or level is not None:
            raise ValueError("`trim` and `level` must be left out with `mels`, which are of the audio as it is.")
        given = GivenMels(paths, mel, scale)
        skipped |= {str(path): "It has no mel that fits." for path in lengths if path not in given.frames}
        lengths = {path: given.samples(path, lengths[path]) for path in given.frames}
        settings["mels"] = [str(mels), mel_scale, str(mel_mean), str(mel_std)]
    settings |= {"shard_megabytes": shard_megabytes, "workers": workers, "validation": validation, "test": test, "seed": seed}
    settings["lengths"] = {path.as_posix(): length for path, length in lengths.items()}
    speakers = {str(path): name for path in lengths if (name := found[path]) is not None}
    settings |= {"speakers": speakers or None, "split": "by hash"}
    output_folder(output)
    check_same(output / "settings.json", settings)
    rows, parts = [], dict(zip(SPLITS, split_files(list(lengths), validation, test, seed, source), strict=True))
    with atomic_write(output / "split.json") as part:
        part.write_text(json.dumps({split: [file_name(path, source) for path in files] for split, files in parts.items()}))
    for split, files in parts.items():
        notes = output / split / "notes"
        pieces = cut_up(files, lengths, round(seconds * mel.sample_rate), 1 if given is None else mel.hop_length)
        np.random.default_rng(seed).shuffle(pieces)
        if not (output / split / "index.json").exists():
            notes.mkdir(parents=True, exist_ok=True)
            mend_checkpoints(output / split)
            maker = Maker(source, pieces, notes, MelSpectrogram(**mel.spec), with_mel, trim, level, speakers, given)
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # its bar goes to stderr, and stays
                warnings.simplefilter("ignore")
                litdata.optimize(
                    maker,
                    list(range(len(pieces))),
                    str(output / split),
                    chunk_bytes=round(shard_megabytes * 1e6),
                    num_workers=min(workers, len(pieces)),
                    reorder_files=False,
                    use_checkpoint=True,
                    start_method=multiprocessing.get_start_method(),
                )
        name_speakers(output / split / "index.json", sorted(set(speakers.values())))
        made = read_notes(notes)
        skipped |= {pieces[note["number"]][0]: note["problem"] for note in made if note["problem"]}
        hours = sum(note["samples"] for note in made) / mel.sample_rate / 3600
        shards = len(json.loads((output / split / "index.json").read_text())["chunks"])
        if not hours:
            raise ValueError(f"`source`: all {len(pieces)} pieces for {split} came out empty: raise `trim`, or add audio.")
        rows.append({"split": split, "files": len(files), "pieces": len(pieces), "hours": hours, "shards": shards})
    return {"splits": rows, "skipped": {os.path.relpath(path, source): problem for path, problem in skipped.items()}}


def cut_up(files: Sequence[Path], lengths: dict[Path, int], limit: int, hop: int = 1) -> list[tuple[str, int, int]]:
    """Returns the pieces of files as file, first sample and length: equal parts of each, none longer than the limit.

    They begin on multiples of `hop`, which may make some longer by as much.
    """
    pieces = []
    for path in files:
        edges = np.linspace(0, lengths[path] / hop, -(-lengths[path] // limit) + 1).round().astype(int) * hop
        edges = [*edges[:-1].tolist(), lengths[path]]
        pieces += [(str(path), start, stop - start) for start, stop in itertools.pairwise(edges)]
    return pieces


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Writes the settings to a file or, if it is there, raises ValueError unless it holds the same."""
    if not path.exists():
        with atomic_write(path) as part:
            part.write_text(json.dumps(settings))
        return
    before = json.loads(path.read_text())
    if differs := [name for name in settings if before.get(name) != json.loads(json.dumps(settings[name]))]:
        raise ValueError(
            f"`output`: {path.parent} was begun with other {', '.join(differs)}: give the same, or choose another folder."
        )


def name_speakers(index: Path, names: list[str]) -> None:
    """Writes the speakers' names into litdata's index, which goes wherever the shards go."""
    content = json.loads(index.read_text())
    if names and "speakers" not in content:
        with atomic_write(index) as part:
            part.write_text(json.dumps(content | {"speakers": names}))


def mend_checkpoints(folder: Path) -> None:
    """Lets litdata go on in the right place after a second kill, too.

    litdata 0.2.76 writes down how many inputs a process has done *since it last began*, and goes on as if that were all. As
    each input gives one piece, it is as many as there are pieces in its shards.
    """
    for path in folder.glob(".checkpoints/checkpoint-*.json"):
        checkpoint = json.loads(path.read_text())
        checkpoint["inputs_done"] = checkpoint["done_till_index"] = sum(chunk["chunk_size"] for chunk in checkpoint["chunks"])
        with atomic_write(path) as part:
            part.write_text(json.dumps(checkpoint))


def read_notes(folder: Path) -> list[dict[str, Any]]:
    """Returns the notes of all pieces, the last of each; a line that was being written when the process died is left out."""
    notes = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                note = json.loads(line)
                notes[note["number"]] = note
    return list(notes.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the shards, and prints a table of what there is in them and which files were left out."""
    with one_line_errors(), quiet():
        options = vars(parse_arguments(argv))
        audio = options.pop("audio")
        found = prepare(mel=MelSpectrogram(**audio_settings(audio)), **options)
        print(markdown_table(found["splits"]))
        print(f"\n{len(found['skipped'])} files left out{':' if found['skipped'] else '.'}")
        for name, problem in found["skipped"].items():
            print(f"  {name}: {problem}")
        print(f"\nTrain with `python -m wavflow.train data=shards data.path={options['output']} audio={audio}`.")


def audio_settings(name: str) -> dict[str, Any]:
    """Returns an option of conf/audio, e.g. "22k".

    Raises:
        ValueError: There is none of that name.
    """
    folder = resources.files("wavflow.conf") / "audio"
    options = sorted(option.name.removesuffix(".yaml") for option in folder.iterdir() if option.name.endswith(".yaml"))
    if name not in options:
        raise ValueError(f"`audio` must be one of {', '.join(options)}, got {name!r}.")
    settings = yaml.safe_load((folder / f"{name}.yaml").read_text())
    bases = [base for base in settings.pop("defaults", []) if base != "_self_"]
    return {key: value for base in bases for key, value in audio_settings(base).items()} | settings


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wavflow.prepare",
        description="Makes shards of a folder of audio files, to train from with data=shards. Killed, the same "
        "command goes on where it was. To train from a bucket, copy the folder there and name it in data.path=s3://... or gs://...",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wavflow {version('wavflow')}")
    parser.add_argument("source", help="folder of audio, of any rates, searched with all below it")
    parser.add_argument("output", help="folder for the shards")
    parser.add_argument("--audio", default="22k", help="sample rate and mel: an option of conf/audio, as in training")
    parser.add_argument("--with-mel", action="store_true", help="store the mels too: more to read, less to compute")
    parser.add_argument(
        "--trim", type=float, metavar="DB", help="take off both ends what lies so far below the loudest, e.g. 40"
    )
    parser.add_argument("--level", type=float, metavar="LKFS", help="bring all to this loudness (ITU-R BS.1770), e.g. -23")
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--table", metavar="CSV", help="take the files of its column path; the column speaker tells who speaks")
    known.add_argument("--corpus", help="take the files of vctk, libritts or another corpus of conf/data, and its speakers")
    parser.add_argument("--mels", metavar="FOLDER", help="store the mels of this folder, named as the audio, and compute none")
    parser.add_argument("--mel-scale", metavar="SCALE", help="convert them from: ln, log10, db or linear magnitudes")
    parser.add_argument("--mel-mean", metavar="X", help="what was subtracted to normalize them: a number, or a file")
    parser.add_argument("--mel-std", metavar="X", help="what they were divided by then: a number, or a file")
    parser.add_argument("--seconds", type=float, default=30.0, help="cut longer files into equal pieces of at most that")
    parser.add_argument("--shard-megabytes", type=float, default=64.0, help="size of a shard")
    parser.add_argument("--workers", type=int, default=max(1, os.cpu_count() or 1), help="processes")
    parser.add_argument("--validation", type=float, default=0.05, help="fraction of the files")
    parser.add_argument("--test", type=float, default=0.1, help="fraction of the files")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
