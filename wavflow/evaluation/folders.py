"""Sounds of foreign vocoders: a folder of recordings and folders of what was made of them, matched by file name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from wavflow.audio import audio_rate, read_audio
from wavflow.audio_files import find_audio, some
from wavflow.evaluation.comparison import RECORDING


class Sounds(NamedTuple):
    """The clips that folders share: clip to system to audio (T,); their rate in Hz, and notes for the report."""

    clips: dict[str, dict[str, Tensor]]
    sample_rate: int
    notes: list[str]
    left_out: list[dict[str, str]]


def read_folders(reference: str | Path, generated: Mapping[str, str | Path], limit: int | None = None) -> Sounds:
    """Reads recordings and the sounds that systems made of them; a file's name below its folder says which belong together.

    A generated name may go on where the recording's ends: `LJ001.wav` finds `LJ001_generated.wav`. Sounds of another
    rate than that of the first recording are resampled to it. What can't be read is named in `left_out`, and what has no
    counterpart in the notes.

    Args:
        reference: Folder of recordings.
        generated: System to folder.
        limit: Number of recordings to read, at most, of those that have a counterpart.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: No recording has a counterpart, and both folders' first names are in the message; or none can be read.
    """
    recordings = _named(reference)
    files = {system: _named(folder) for system, folder in generated.items()}
    found = {system: _matched(recordings, candidates) for system, candidates in files.items()}
    for system, matches in found.items():
        if not matches:
            raise ValueError(
                f"`generated`: no file in {generated[system]} is named like one in {reference} ({some(files[system], 3)} "
                f"against {some(recordings, 3)}): give them the same names."
            )
    shared = [name for name in recordings if any(name in matches for matches in found.values())]
    clips: dict[str, dict[str, Tensor]] = {}
    left_out, resampled, sample_rate = list[dict[str, str]](), dict[tuple[str, int], int](), 0
    for name in shared[:limit]:
        clip = {}
        for system, paths in {RECORDING: recordings, **found}.items():
            if system != RECORDING and RECORDING not in clip:
                continue
            try:
                if name not in paths:
                    raise ValueError(f"no file in {generated[system]} has its name")
                rate = audio_rate(paths[name])
                sample_rate = sample_rate or rate
                clip[system] = read_audio(paths[name], sample_rate)[0]
                if rate != sample_rate:
                    resampled[system, rate] = resampled.get((system, rate), 0) + 1
            except (ValueError, OSError) as error:
                left_out.append({"clip": name, "system": system, "why": str(error)})
        if len(clip) > 1:
            clips[name] = clip
    if not clips:
        raise ValueError(f"`reference`: no clip of {reference} can be compared. The first: {left_out[0]['why']}")
    notes = [f"{count} of {system} resampled from {rate} to {sample_rate} Hz" for (system, rate), count in resampled.items()]
    if alone := [name for name in recordings if name not in shared]:
        notes.append(f"{len(alone)} of the recordings without a counterpart, not compared: {some(alone, 3)}")
    for system, candidates in files.items():
        matched = set(found[system].values())
        if extra := [name for name, path in candidates.items() if path not in matched]:
            notes.append(f"{len(extra)} of {system} without a recording, not compared: {some(extra, 3)}")
    return Sounds(clips, sample_rate, notes, left_out)


def _named(folder: str | Path) -> dict[str, Path]:
    """Name below the folder, without the ending, to file."""
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in find_audio(folder)}


def _matched(recordings: Mapping[str, Path], candidates: Mapping[str, Path]) -> dict[str, Path]:
    """Recording's name to the file of that name, or else to the one file whose name goes on after it."""
    found: dict[str, list[str]] = {}
    for name in candidates:
        ends = (end for end in range(len(name), 0, -1) if not name[end : end + 1].isalnum())
        owner = next((name[:end] for end in ends if name[:end] in recordings), None)  # the longest: `a_1` is not `a`'s
        if owner is not None:
            found.setdefault(owner, []).append(name)
    found = {owner: [owner] if owner in names else names for owner, names in found.items()}
    return {owner: candidates[names[0]] for owner, names in found.items() if len(names) == 1}
