"""Which files there are and who speaks in each: from a table, or from the names that a published corpus gives its files.

A corpus is recognized by its files' names alone, so it may lie at any depth below a folder, beside other corpora. torchaudio,
which only a download needs, knows the address and the checksum of each.
"""

import csv
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from wavflow.arguments import choose
from wavflow.audio_files import find_audio


class Corpus(NamedTuple):
    """How a corpus is recognized and fetched."""

    pattern: str  # of the end of a file's path, without its ending; may hold the groups `part` and `speaker`
    dataset: str  # of torchaudio, which downloads it
    option: str = ""  # of that data set: takes `value` with the part put into it
    value: str = "{}"
    part: str | None = None  # what is read where none is named; None for all parts that are there
    fetched: str = ""  # the part that is fetched where none is named


# torchaudio 2.11 holds no checksum against its own address, which begins with www
ARCTIC = "http://festvox.org/cmu_arctic/packed/cmu_us_{}_arctic.tar.bz2"

CORPORA = {
    "ljspeech": Corpus(r"LJ\d{3}-\d{4}", "LJSPEECH"),
    # of version 0.92, with two microphones, and of the one before, with one
    "vctk": Corpus(r"(?P<speaker>[ps]\d+)_\d{3}(_(?P<part>mic[12]))?", "VCTK_092", "mic_id", part="mic2", fetched="mic2"),
    "libritts": Corpus(
        r"(?P<part>[^/]+)/(?P<speaker>\d+)/\d+/\d+_\d+_\d{6}_\d{6}", "LIBRITTS", "url", fetched="train-clean-100"
    ),
    "cmuarctic": Corpus(
        r"cmu_us_(?P<speaker>(?P<part>[a-z]+))_arctic/wav/arctic_[ab]\d{4}", "CMUARCTIC", "url", ARCTIC, fetched="aew"
    ),
    "yesno": Corpus(r"[01](_[01]){7}", "YESNO"),
}


def find_files(
    folder: str | os.PathLike[str],
    table: str | os.PathLike[str] | None,
    corpus: str | None,
    part: str | None = None,
    download: bool = False,
) -> dict[Path, str | None]:
    """Returns the files of a corpus, of a table, or of a folder where neither is named, and who speaks in each."""
    if corpus is not None:
        return find_corpus(corpus, folder, part, download)
    return dict.fromkeys(find_audio(folder)) if table is None else read_table(table, folder)


def find_corpus(
    name: str, folder: str | os.PathLike[str], part: str | None = None, download: bool = False
) -> dict[Path, str | None]:
    """Finds the files of a corpus and who speaks in each, sorted.

    Args:
        name: Of `CORPORA`.
        folder: Looked through at any depth; where it goes if it is downloaded.
        part: A microphone of VCTK (mic2), a subset of LibriTTS or a voice of CMU ARCTIC (all that are there).
        download: Whether to fetch the corpus if nothing of it is there. Its folder gets its name once it is whole.

    Returns:
        File to speaker; None for a corpus of one speaker.

    Raises:
        FileNotFoundError: It is not there.
        OSError: The download failed.
        ValueError: There is no such corpus, or it has no such part, or torchaudio is missing.
    """
    corpus = choose("corpus", name, CORPORA)
    if part is not None and "?P<part>" not in corpus.pattern:
        raise ValueError(f"`part` must be left out, since {name} has no parts, got {part!r}.")
    if not (found := _recognized(corpus, Path(folder), part or corpus.part)) and download:
        _download(name, corpus, Path(folder), part or corpus.fetched)
        found = _recognized(corpus, Path(folder), part or corpus.part)
    if not found:
        what = f"no file of {name}" if part is None else f"no file of {name}, part {part},"
        raise FileNotFoundError(
            f"`path` must hold the corpus, but there is {what} below {folder}: name another folder, or have it downloaded "
            f"there with data.download=true."
        )
    return found


def _recognized(corpus: Corpus, folder: Path, part: str | None) -> dict[Path, str | None]:
    pattern, found = re.compile(rf"(.*/)?{corpus.pattern}"), {}
    try:
        files = find_audio(folder)
    except (FileNotFoundError, ValueError):
        return {}
    for path in files:
        if not any(name.startswith(".") for name in path.relative_to(folder).parts):
            match = pattern.fullmatch(path.absolute().with_suffix("").as_posix())
            if match and (part is None or match.groupdict().get("part") in (None, part)):
                found[path] = match.groupdict().get("speaker")
    return found


def _download(name: str, corpus: Corpus, folder: Path, part: str) -> None:
    """Fetches and unpacks into a hidden folder, which is renamed at the end: a part of a corpus must not pass for the whole."""
    place = folder / "-".join(filter(None, (name, part)))
    if place.exists():
        raise ValueError(f"`path`: {place} is there, but holds nothing of {name}: remove it, to have it downloaded again.")
    unfinished = folder / f".{place.name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        import torchaudio.datasets

        chosen = {corpus.option: corpus.value.format(part)} if corpus.option else {}
        getattr(torchaudio.datasets, corpus.dataset)(str(unfinished), download=True, **chosen)
    except ImportError as error:
        raise ValueError(
            f"`download` needs torchaudio ({error}): pip install 'wavflow[data]', or fetch {name} by hand."
        ) from error
    except (RuntimeError, ValueError, OSError) as error:  # a wrong checksum; a part that is none; the network or the disk
        raise OSError(f"`download`: {name} could not be fetched ({error}): try again, or fetch it by hand.") from error
    unfinished.rename(place)


def read_table(
    table: str | os.PathLike[str], folder: str | os.PathLike[str], column: str = "speaker"
) -> dict[Path, str | None]:
    """Reads which files there are, and who speaks in each, from a table with a line of column names.

    The columns may be parted by `,`, `|`, `;` or tabs. `path` is needed, `speaker` is taken where it is there, and others are
    left alone.

    Args:
        table: A CSV file, in UTF-8.
        folder: What paths are relative to.
        column: What to read instead of speakers, such as `mel`.

    Returns:
        File to speaker; None where there is no such column.

    Raises:
        FileNotFoundError: There is no such table.
        ValueError: It can't be read, or has no column `path`, no lines, or a line that lacks a value or contradicts another.
    """
    if not Path(table).is_file():
        raise FileNotFoundError(f"`table` must name a CSV file, but there is no {table}: check the name.")
    found: dict[Path, str | None] = {}
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            delimiter = max(",|;\t", key=file.readline().count)
            file.seek(0)
            # LJSpeech's form is parted by `|`, and its quotes are text
            dialect: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "|" else {}
            rows = csv.DictReader(file, delimiter=delimiter, restval="", **dialect)
            columns = rows.fieldnames or ()
            if "path" not in columns:
                raise ValueError(f"`table` must have a column `path`, but {table} has {', '.join(columns)}: name the columns.")
            for row in rows:
                values = {name: row[name].strip() for name in ("path", column) if name in columns}
                path, speaker = Path(folder, values["path"]), values.get(column)
                if "" in values.values() or found.get(path, speaker) != speaker:
                    fault = "lacks a value" if "" in values.values() else f"gives a file a second {column}"
                    raise ValueError(f"`table`: line {rows.line_num} of {table} {fault}: {values}: put it right.")
                found[path] = speaker
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`table` must be a CSV file in UTF-8, got {table} ({error}): save it as such.") from error
    if not found:
        raise ValueError(f"`table` must list at least one file, but {table} lists none: add a line for each.")
    return found
