"""What `python -m wavflow.prepare` does: makes shards of any folder of audio, for data=shards."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wavflow.audio import audio_length, check_audio
from wavflow.cli import output_folder
from wavflow.data.bucket import check_bucket, upload_folder
from wavflow.data.corpora import find_files
from wavflow.data.given import GivenMels, find_mels
from wavflow.data.making import Maker, cut_up, mend_checkpoints, name_speakers, read_notes
from wavflow.data.pieces import import_litdata
from wavflow.data.split import SPLITS, file_name, split_files
from wavflow.files import check_local, sweep, write_text
from wavflow.mel import MelSpectrogram
from wavflow.mel_files import read_scale


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
    upload: str | None = None,
) -> dict[str, Any]:
    """Makes shards of a folder of audio; called again after it was killed, it goes on.

    Args:
        source: Folder tree of audio files, of any rate.
        output: Folder for the shards.
        mel: Gives the sample rate, and the mels where they are stored.
        workers: Processes. It and all other options: see `python -m wavflow.prepare --help`.

    Returns:
        `splits`, a row for each, and `skipped`, the reason for each file.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: litdata is missing, the folder holds no audio that can be used, or `output` was begun with other settings.
    """
    litdata = import_litdata()
    if "://" in os.fspath(output):
        url = output if os.fspath(output).startswith("s3://") else "s3://bucket/folder"
        raise ValueError(f"`output` must be a folder here, got {output}: name one, and say `--upload {url}`.")
    for name, place in (("source", source), ("table", table), ("mels", mels)):
        check_local(name, place or "")
    if upload is not None:
        check_bucket(upload)
    for name, value in (("seconds", seconds), ("shard_megabytes", shard_megabytes), ("workers", workers)):
        if not value > 0:
            raise ValueError(f"`{name}` must be above 0, got {value}: raise it.")
    found = find_files(source, table, corpus)
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
    if paths := find_mels(list(lengths), source, mels, table, scale):
        if trim is not None or level is not None:
            raise ValueError("`trim` and `level` must be left out with `mels`, which are of the audio as it is.")
        given = GivenMels(paths, mel, scale)
        skipped |= {str(path): "It has no mel that fits." for path in lengths if path not in given.frames}
        lengths = {path: given.samples(path, lengths[path]) for path in given.frames}
        settings["mels"] = [str(mels), mel_scale, str(mel_mean), str(mel_std)]
    settings |= {"shard_megabytes": shard_megabytes, "workers": workers, "validation": validation, "test": test, "seed": seed}
    settings["lengths"] = {path.as_posix(): length for path, length in lengths.items()}
    speakers = {str(path): who for path in lengths if (who := found[path]) is not None}
    settings |= {"speakers": speakers or None, "split": "by hash"}
    output_folder(output)
    sweep(output, *(output / split for split in SPLITS))
    check_same(output / "settings.json", settings)
    rows, parts = [], dict(zip(SPLITS, split_files(list(lengths), validation, test, seed, source), strict=True))
    names = {split: [file_name(path, source) for path in files] for split, files in parts.items()}
    write_text(output / "split.json", json.dumps(names))
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
    if upload is not None:
        upload_folder(Path(output), upload)
    return {"splits": rows, "skipped": {os.path.relpath(path, source): problem for path, problem in skipped.items()}}


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Writes the settings to a file or, if it is there, raises ValueError unless it holds the same."""
    if not path.exists():
        return write_text(path, json.dumps(settings))
    before = json.loads(path.read_text())
    if differs := [name for name in settings if before.get(name) != json.loads(json.dumps(settings[name]))]:
        raise ValueError(
            f"`output`: {path.parent} was begun with other {', '.join(differs)}: give the same, or choose another folder."
        )
