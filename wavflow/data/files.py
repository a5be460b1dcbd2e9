"""Which audio files there are, which of them can be used, and which of those train, validate and test."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def split_files(
    paths: Sequence[Path], validation: float = 0.05, test: float = 0.1, seed: int = 0
) -> tuple[list[Path], list[Path], list[Path]]:
    """Splits into train, validation and test files, at random but the same on every machine.

    The draw depends on the seed and on the sorted names below the files' common folder, not on where that folder lies.
    From three files on each part has at least one. Two files: one to train, the other to validate *and* to test. A
    single file is all three, which measures memory, not generalisation; a warning says so.

    Args:
        paths: The files, in any order.
        validation: Fraction of the files, in (0, 1).
        test: Fraction of the files, in (0, 1); something must remain to train on.
        seed: Of the draw.

    Raises:
        ValueError: There is no file, or the fractions leave nothing.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"`validation` and `test` must be fractions above 0 that add up to less than 1, got {validation} and "
            f"{test}: lower them."
        )
    if not paths:
        raise ValueError("`paths` must hold at least one file, got none: name a folder that holds audio.")
    folder = common_folder(paths)
    ordered = sorted(paths, key=lambda path: path.absolute().relative_to(folder).as_posix())
    shuffled = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    if len(shuffled) == 1:
        warnings.warn(f"There is one audio file alone, so it serves for training and testing: {shuffled[0]}", stacklevel=2)
        return shuffled, shuffled, shuffled
    if len(shuffled) == 2:
        return shuffled[:1], shuffled[1:], shuffled[1:]
    n_test = min(max(1, round(test * len(shuffled))), len(shuffled) - 2)
    n_validation = min(max(1, round(validation * len(shuffled))), len(shuffled) - 1 - n_test)
    held_out = n_test + n_validation
    return shuffled[held_out:], shuffled[n_test:held_out], shuffled[:n_test]


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that all these files lie in, absolute."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))
