"""`python -m wavflow.prepare`: makes shards of any folder of audio, for data=shards; see --help.

A command and not a script, so that it is installed with the package that reads what it makes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module

from wavflow import __version__
from wavflow.cli import one_line_errors, quiet
from wavflow.options import as_dict
from wavflow.threads import processors


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the shards, and prints a table of what there is in them and which files were left out."""
    with one_line_errors(), quiet():
        options = vars(parse_arguments(argv))
        audio = options.pop("audio")
        settings = audio_settings(audio)

        from wavflow.audio_files import counted  # only now, see `wavflow.cli.command`
        from wavflow.commands.prepare import prepare
        from wavflow.mel import MelSpectrogram
        from wavflow.reporting.tables import markdown_table

        found = prepare(mel=MelSpectrogram(**settings), **options)
        print(markdown_table(found["splits"]))
        print(f"\n{counted(len(found['skipped']), 'file')} left out{':' if found['skipped'] else '.'}")
        for name, problem in found["skipped"].items():
            print(f"  {name}: {problem}")
        where = options["upload"] or options["output"]
        print(f"\nTrain with `python -m wavflow.train data=shards data.path={where} audio={audio}`.")


def audio_settings(name: str) -> dict[str, Any]:
    """Returns an option of conf/audio, e.g. "22k"."""
    with initialize_config_module("wavflow.conf", version_base="1.3"):
        return as_dict(compose("train", [f"audio={name}"]).audio)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wavflow.prepare",
        description="Makes shards of a folder of audio files, to train from with data=shards. Killed, the same "
        "command goes on where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wavflow {__version__}")
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
    parser.add_argument("--workers", type=int, default=processors(), help="processes")
    parser.add_argument("--validation", type=float, default=0.05, help="fraction of the files")
    parser.add_argument("--test", type=float, default=0.1, help="fraction of the files")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order")
    parser.add_argument("--upload", metavar="S3", help="copy the shards to s3://bucket/folder then, to train from there")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
