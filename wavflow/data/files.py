"""Which audio files there are, and which of them can be used."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from wavflow.audio import FORMATS, check_audio

_NAMED = 20  # skipped files that a warning names before it only counts


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Finds the wav, flac, ogg and mp3 files below a folder, sorted; hidden files are left out.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is a file, or holds no audio.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"`folder` must name a folder of audio files, but there is no {folder}: check the name.")
    if not folder.is_dir():
        raise ValueError(f"`folder` must name a folder of audio files, got the file {folder}: name the folder it lies in.")
    named = (path for path in folder.rglob("*") if path.suffix[1:].lower() in FORMATS and not path.name.startswith("."))
    files = [path for path in named if not path.is_dir()]
    if not files:
        raise ValueError(f"`folder` must hold {', '.join(FORMATS)} files, but {folder} holds none: name another folder.")
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def usable_files(paths: Sequence[Path]) -> list[Path]:
    """Leaves out the files that can't be used (`check_audio`), with one warning that counts and names them.

    Raises:
        ValueError: None is left.
    """
    usable, skipped = [], []
    for path in paths:
        try:
            check_audio(path)
            usable.append(path)
        except (ValueError, OSError) as error:
            skipped.append((path, error))
    if not usable:
        where = f"{len(paths)} in {common_folder(paths)}, none usable. The first: {skipped[0][1]}" if skipped else "none."
        raise ValueError(f"`paths` must hold at least one usable audio file, got {where}")
    if skipped:
        names = ", ".join(str(path) for path, _ in skipped[:_NAMED])
        more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        warnings.warn(
            f"{len(skipped)} of {len(paths)} audio files can't be used and are skipped: {names}{more}. "
            f"The first: {skipped[0][1]}",
            stacklevel=2,
        )
    return usable


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that all these files lie in, absolute."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))
