"""The options of a run: read from its folder, and compared with those of a command that goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wavflow.audio_files import some
from wavflow.options import flat

FIXED = (
    *("audio", "net", "data._target_", "data.seed", "data.validation", "data.test", "data.split"),
    *("stage._target_", "stage.optimizer._target_", "callbacks.ema._target_", "start"),
)
"""Options that a run keeps, with all below them; every other may change, see docs/resume.md."""

_OF_THE_CALL = ("output", "resume", "overwrite", "mel", "net.mel")  # the mel is that of `audio`


def newest_run(runs: str | Path) -> Path | None:
    """Returns the run, of a folder of runs, with the newest checkpoint; None where there is no checkpoint."""
    saved = Path(runs).glob("*/checkpoints/*.ckpt")
    return max(((path.stat().st_mtime, path.parents[1]) for path in saved), default=(0.0, None))[1]


def run_of(resume: str | None, folder: str | Path) -> Path | None:
    """Returns the folder of the run to go on with; None for a new run."""
    if resume == "auto":
        return Path(folder) if any(Path(folder, "checkpoints").glob("*.ckpt")) else None
    return None if resume is None else Path(resume).absolute().parents[1]


def read_record(run: Path | None) -> dict[str, Any]:
    """Returns the options in a run's config.yaml; none where there is no such file or it can't be read."""
    try:
        record = None if run is None else yaml.safe_load((run / "config.yaml").read_bytes())
    except (OSError, yaml.YAMLError):
        record = None
    return record if isinstance(record, dict) else {}


def changed_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns, in words, which options of a run (`read_record`) change when it goes on; ValueError for one of `FIXED`."""
    old, new = _flat(before), _flat(now)
    differ = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    # Options of a net or a mel may be left out; the shapes of the weights show later whether their defaults changed.
    fixed = [name for name in differ if _below(name, FIXED) and ((name in old and name in new) or not _below(name, FIXED[:2]))]
    if fixed:
        first, more = fixed[0], f", nor can {some(fixed[1:], 3)}" if fixed[1:] else ""
        raise ValueError(
            f"`{first}` can't change in a run that goes on, from {old.get(first)} to {new.get(first)}{more}: give the "
            "options of that run (its config.yaml), or begin another one, with start=<its model.safetensors> if that fits."
        )
    return list(dict.fromkeys(_change(name, old, new) for name in differ if not _below(name, FIXED)))


def _change(name: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    """Returns the change of an option in words; where a whole group is added or left out, the name of the group alone."""
    if name in old and name in new:
        return f"{name}: {new[name]} from now on, {old[name]} before"
    other, parts = (old if name in new else new), name.split(".")
    above = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
    group = next(top for top in above if not any(_below(there, (top,)) for there in other))
    return f"{group}: {'left out' if name in old else new[name] if group == name else 'there'} from now on"


def _below(name: str, options: tuple[str, ...]) -> bool:
    return any(name == option or name.startswith(f"{option}.") for option in options)


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """Returns all options that are not null, by full name; paths in the run's folder are relative to it."""
    folder = str(options.get("output"))
    return {
        name: value.removeprefix(folder) if isinstance(value, str) else value
        for name, value in sorted(flat(options))
        if value not in (None, {}) and not _below(name, _OF_THE_CALL)
    }
