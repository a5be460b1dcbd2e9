"""Divides a large set of files among processes, and records the outcome of each file.

Process i of n takes the files i, i + n, ... of the sorted list, whatever is done of them already, so processes need not talk to
each other. Each writes a manifest of its own, a line of JSON for each file; one that is started again reads them all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from wavflow.arguments import about
from wavflow.audio_files import counted, some
from wavflow.files import read_lines, write_bytes

T = TypeVar("T")

# Index, number of processes, index on this machine. SLURM_NTASKS would not do: a batch script has it too, outside of srun.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


@dataclass(frozen=True)
class Share:
    """The part `index` of `count`, done by the process of number `local` on its machine."""

    index: int
    count: int
    local: int

    def rest(self, files: Sequence[T], is_done: Callable[[T], bool]) -> list[T]:
        """Returns the files of this share that are not done; a line on stderr tells how many of how many they are."""
        own = files[self.index :: self.count]
        left = [file for file in own if not is_done(file)]
        if len(left) < len(files):
            done = f", {len(own) - len(left)} of them done already" if len(left) < len(own) else ""
            print(f"Part {self.index}/{self.count}: {len(own)} of {counted(len(files), 'file')}{done}.", file=sys.stderr)
        return left

    def split(self, count: int) -> list[Share]:
        """Returns the shares of so many processes that this one starts."""
        return [Share(self.index * count + i, self.count * count, self.local * count + i) for i in range(count)]


def share_of(part: str | None) -> Share:
    """Returns this process's share, as torchrun or srun divides all files, or a part of them such as "3/10", from 0."""
    first, parts = 0, 1
    if part is not None:
        first, parts = (int(word) if word.isdecimal() else -1 for word in (*str(part).split("/"), "")[:2])
        if not 0 <= first < parts or str(part).count("/") != 1:
            raise ValueError(f"`share` must be i/n, from 0/n to n-1/n, got {part}: say share=0/10 for the first of ten parts.")
    found = next((names for names in (TORCHRUN, SRUN) if names[1] in os.environ), None)
    index, count, local = (int(os.environ[name]) for name in found) if found else (0, 1, 0)
    return Share(first * count + index, parts * count, local)


class Manifest:
    """The outcome of each file of a share: `<name>-<index>-of-<count>.jsonl`, after a first line with the settings.

    Args:
        folder: Of the manifests of all processes.
        name: Of what is done.
        share: Whose files these are.
        settings: What the results depend on.
        go_on: Whether to go on with the manifest that is there; else it is begun anew, and those for other n are removed.

    Raises:
        ValueError: There is a manifest to go on with, of other settings.
        OSError: The folder can't be written.
    """

    def __init__(
        self, folder: str | os.PathLike[str], name: str, share: Share, settings: Mapping[str, Any], go_on: bool
    ) -> None:
        self.folder, self.name, self.settings = Path(folder), name, json.loads(json.dumps(settings))
        self.path = self.folder / f"{name}-{share.index}-of-{share.count}.jsonl"
        for path in self._all():
            if not go_on and not path.name.endswith(f"-of-{share.count}.jsonl"):
                path.unlink(missing_ok=True)
            before = read_lines(path)[0]["settings"] if go_on else self.settings
            if differs := [key for key, value in self.settings.items() if before.get(key) != value]:
                raise ValueError(f"`skip_done`: {path} is of other {', '.join(differs)}: give the same, or another output=.")
        with about("output", "path"):
            if not (go_on and self.path.exists()):
                write_bytes(self.path, json.dumps({"settings": self.settings}).encode() + b"\n")
            elif not self.path.read_bytes().endswith(b"\n"):  # its process was killed
                self._append("\n")

    def add(self, file: object, **what: Any) -> None:
        """Writes the outcome of a file; `error` says why it failed."""
        self._append(json.dumps({"file": str(file), **what}) + "\n")

    def read(self) -> dict[str, dict[str, Any]]:
        """Returns the last line of each file, of all processes with these settings; lines without an error come first."""
        lines: list[dict[str, Any]] = []
        for path in self._all():
            head, *rest = read_lines(path)
            lines += rest if head["settings"] == self.settings else []
        return {line["file"]: line for line in sorted(lines, key=lambda line: "error" not in line)}

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}-*-of-*.jsonl"))

    def _append(self, text: str) -> None:
        try:
            with self.path.open("a") as file:
                file.write(text)
        except OSError as error:
            error.filename = str(self.path)  # a full disk names no file
            raise


def end_share(skipped: Mapping[Any, Exception], count: int) -> None:
    """Ends a share of so many files: raises what is wrong with those that could not be used, if there are any.

    Under torchrun it first waits for the other processes, which a process that fails would take with it.

    Raises:
        ValueError: Some of several files could not be used; of a single file, its own error.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import rendezvous

        store, rank, world = next(rendezvous("env://"))
        store.set(f"wavflow-{rank}", "done")
        store.wait([f"wavflow-{i}" for i in range(world)], timedelta(days=30))
    if skipped:
        first = next(iter(skipped.values()))
        if count == 1:
            raise first
        raise ValueError(
            f"{len(skipped)} of {count} files failed and were left out: {some(skipped)}. The first: {first}"
        ) from first
