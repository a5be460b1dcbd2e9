"""Makes the pieces that shards hold: reads them, trims silence and sets the loudness, in litdata's processes."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavflow.audio import read_segment
from wavflow.data.given import GivenMels
from wavflow.files import read_lines, write_text
from wavflow.loudness import loudness
from wavflow.mel import MelSpectrogram
from wavflow.writing import quantized

PEAK = 0.99
"""No sample exceeds this once the loudness is set."""


@dataclass(eq=False)
class Maker:
    """Makes the pieces one by one, in litdata's processes; each process writes a file of notes on its pieces.

    A piece that can't be read, or is silent where silence is trimmed, is written empty and not left out: litdata counts
    the pieces that it has written to know where to go on.

    Args:
        source: The folder that the files are named from in the shards.
        pieces: File, first sample and length of each, at the mel's rate.
        notes: A folder.
        mel: Gives the sample rate.
        with_mel: Whether to compute and store the mels.
        trim: Silence is taken off the ends of a piece: what lies that many dB below its loudest; `None` keeps it.
        level: Loudness in LKFS that each piece is brought to; `None` leaves it.
        speakers: File to speaker, of those whose speaker is known.
        given: The mels to store, where they are not to be computed; pieces then begin on a frame.
    """

    source: str | os.PathLike[str]
    pieces: Sequence[tuple[str, int, int]]
    notes: Path
    mel: MelSpectrogram
    with_mel: bool = False
    trim: float | None = None
    level: float | None = None
    speakers: Mapping[str, str] = field(default_factory=dict)
    given: GivenMels | None = None

    def __call__(self, number: int) -> dict[str, Any]:
        path, start, length = self.pieces[number]
        torch.set_num_threads(1)  # there is a process for each core
        audio, problem = np.zeros(0, np.int16), None
        mel = np.zeros((self.mel.n_mels, 0), np.float32)
        try:
            sound, skipped = self._shaped(read_segment(path, start, length, self.mel.sample_rate))
            audio = quantized(sound, "PCM_16")
            if self.given is not None:
                hop = self.mel.hop_length
                mel = self.given.read(Path(path))[:, start // hop : start // hop + self.mel.frames_of(length)].numpy()
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
        """Trims silence and sets the loudness; returns the audio and how many samples were trimmed at the beginning."""
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


def cut_up(files: Sequence[Path], lengths: dict[Path, int], limit: int, hop: int = 1) -> list[tuple[str, int, int]]:
    """Returns the pieces of files as file, first sample and length: equal parts of each, none longer than the limit.

    They begin on multiples of `hop`, which may make some longer by as much.
    """
    pieces = []
    for path in files:
        edges = np.linspace(0, lengths[path] / hop, -(-lengths[path] // limit) + 1).round().astype(int) * hop
        ends = [*edges[:-1].tolist(), lengths[path]]
        pieces += [(str(path), start, stop - start) for start, stop in itertools.pairwise(ends)]
    return pieces


def name_speakers(index: Path, names: list[str]) -> None:
    """Writes the speakers' names into litdata's index, which goes wherever the shards go."""
    content = json.loads(index.read_text())
    if names and "speakers" not in content:
        write_text(index, json.dumps(content | {"speakers": names}))


def mend_checkpoints(folder: Path) -> None:
    """Corrects litdata's checkpoints, so that it goes on in the right place after a second kill, too.

    litdata 0.2.76 stores how many inputs a process has done *since it last began*, and goes on as if that were all. Each input
    gives one piece, so the true number is that of the pieces in its shards.
    """
    for path in folder.glob(".checkpoints/checkpoint-*.json"):
        checkpoint = json.loads(path.read_text())
        checkpoint["inputs_done"] = checkpoint["done_till_index"] = sum(chunk["chunk_size"] for chunk in checkpoint["chunks"])
        write_text(path, json.dumps(checkpoint))


def read_notes(folder: Path) -> list[dict[str, Any]]:
    """Returns the notes of all pieces, the last of each; a line that was being written when the process died is left out."""
    notes: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        notes |= {note["number"]: note for note in read_lines(path)}
    return list(notes.values())
