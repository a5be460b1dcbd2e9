"""What is said in each audio file: from a table, the lists of LJSpeech and CMU ARCTIC, or text files of the same names."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from wavflow.data.corpora import read_table


def find_texts(files: Sequence[Path], folder: Path, table: str | os.PathLike[str] | None = None) -> dict[Path, str]:
    """Returns the text of each file that has one.

    Args:
        files: Audio files.
        folder: That they lie below.
        table: A CSV file with the columns `path` and `text`, see `read_table`. Without one, what lies in `folder` or beside
            the files is read: `metadata.csv`, LJSpeech's or one with the columns `id` and `text`, CMU ARCTIC's `txt.done.data`,
            and text files with the names of the audio, as LibriTTS and VCTK have them.
    """
    texts: dict[Path, str] = {}
    if table is not None:
        texts = {path: text for path, text in read_table(table, folder, "text").items() if text}
    else:
        by_name = dict(_listed(folder))
        for path in files:
            stem = re.sub("_mic[12]$", "", path.stem)
            text = by_name.get(path.stem) or by_name.get(stem) or _beside(path, stem)
            if text:
                texts[path] = text
    found = {path: texts[path] for path in files if path in texts}
    if not found:
        raise ValueError(
            f"`data` must tell what is said, but none of the {len(files)} files below {folder} has a text: name a CSV file "
            "with the columns path and text by data.table=..., or put a text file beside each audio file."
        )
    return found


def _beside(audio: Path, name: str) -> str:
    """Returns what a text file of a name beside the audio holds; "" where there is none."""
    for ending in (".normalized.txt", ".txt"):
        if (file := audio.with_name(f"{name}{ending}")).is_file():
            return file.read_text(encoding="utf-8-sig").strip()
    return ""


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields names of files, without ending, and their texts, from the lists of corpora below a folder."""
    for path in sorted(folder.rglob("metadata.csv")):
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE))
        if rows and {"id", "text"} <= set(rows[0]):
            name, text = (rows[0].index(column) for column in ("id", "text"))
            rows = rows[1:]
        else:
            name, text = 0, -1  # LJSpeech's: the last column has its numbers in words
        yield from ((row[name], row[text].strip()) for row in rows if len(row) > max(name, text))
    for path in sorted(folder.rglob("txt.done.data")):
        yield from re.findall(r'\(\s*(\S+)\s+"(.*)"\s*\)', path.read_text(encoding="utf-8"))
    for path in sorted(folder.rglob("txt/*/*.txt")):  # VCTK's
        yield path.stem, path.read_text(encoding="utf-8-sig").strip()
