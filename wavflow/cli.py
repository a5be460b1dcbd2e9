"""What the commands share: Hydra's entry, errors as one line, and where models are found and results go."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from wavflow.files import lock, unlock_all
from wavflow.models import released_models


def command(config: str, lists: tuple[str, ...] = ()) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Makes a function of a configuration a command: it reads conf/<config>.yaml and the overrides, and fails in one line.

    Options named in `lists` take several values as `key=a,b`, where Hydra itself wants `key=[a,b]`.
    """

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(cfg: DictConfig) -> None:
            with one_line_errors():  # here already, since Hydra prints a line of its own for what comes out of a job
                function(cfg)

        @functools.wraps(function)
        def main() -> None:
            sys.argv = [sys.argv[0], *(_as_list(option, lists) for option in sys.argv[1:])]
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print, and we word it
            try:
                with one_line_errors():
                    hydra.main(version_base="1.3", config_path="pkg://wavflow.conf", config_name=config)(job)()
            finally:
                unlock_all()

        return main

    return decorate


def _as_list(option: str, lists: tuple[str, ...]) -> str:
    key, _, value = option.partition("=")
    return f"{key}=[{value}]" if key in lists and "," in value and not value.startswith("[") else option


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with one clear line and status 1 where a user's input is at fault.

    Set WAVFLOW_TRACEBACK=1 to see where an error came from. Errors that we did not foresee keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get("WAVFLOW_TRACEBACK"):
            traceback.print_exc()
        print(f"wavflow: {' '.join(explain(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("wavflow: interrupted", file=sys.stderr)
        raise SystemExit(130) from None  # as a shell counts it


def explain(error: BaseException) -> str:
    """Returns an error's message; those of Hydra and OmegaConf in the words of one who types options."""
    cause = error.__cause__
    if isinstance(error, InstantiationException) and cause is not None:
        text, part = explain(cause), re.search(r"full_key: (\S+)", str(error))
        return text if part is None or "`" in text else f"`{part[1]}`: {text}"  # our own name the argument
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"`{group}` has no option {name!r}: choose one of {', '.join(error.options)}."
    if isinstance(error, OverrideParseException) or "Ambiguous value" in str(error):
        override = re.search(r"'(.*)'", str(error).splitlines()[0])
        return (
            f"`{override[1] if override else error}` can't be read as an option: write key=value, and put a value with special "
            f"characters in double quotes within single ones: 'key=\"value, 1\"'."
        )
    if isinstance(error, MissingMandatoryValue):
        return f"`{error.full_key}` is needed and was not given: add {error.full_key}=<value>."
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        known = [str(key) for key in cause.parent_node or () if key != "hydra"]
        near = difflib.get_close_matches(str(cause.key), known, 1)
        parent = cause.full_key.removesuffix(str(cause.key))
        hint = f"did you mean {parent}{near[0]}?" if near else f"choose one of {', '.join(known)}."
        return f"`{cause.full_key}`: there is no such key: {hint}"
    return str(error)


def quiet() -> None:
    """Leaves warnings to what a user can act on: not Lightning's advertisements and not its own deprecations."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"wavflow: warning: {message}\n"
    for message in (
        r"`isinstance\(treespec, LeafSpec\)`",
        "The '.*_dataloader' does not have many workers",
        "Experiment logs directory",
        "The dirpath has changed",
    ):
        warnings.filterwarnings("ignore", message=message)


def newest_model(stage: str, key: str | None = None, runs: str | Path = "runs") -> Path:
    """Returns the model file of the newest run of a stage; `key` is the option that names another, `stage` if not given.

    A line on stderr names it. Where there is no run, and a model is only to be used (its option is `model`), that of the
    package takes its place: training and comparing go by the models that you made.

    Raises:
        FileNotFoundError: When there is none, with the command that makes one.
    """
    key = key or stage
    models = sorted(Path(runs).glob(f"{stage}/*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not models and key == "model" and (released := released_models().get(f"lj-{stage}")):
        print(f"No model was named and there is none in {runs}/{stage}: model=lj-{stage}, of one voice.", file=sys.stderr)
        return released
    if not models:
        raise FileNotFoundError(
            f"`{key}`: no {stage} was named and there is none in {runs}/{stage}: "
            f"train one with `python -m wavflow.train stage={stage}`, or name one with {key}=<model.safetensors>."
        )
    print(f"No {stage} was named: {key}={models[-1]}, the newest of {runs}/{stage}.", file=sys.stderr)
    return models[-1]


def given(option: str) -> bool:
    """Whether an option was named in the command that runs."""
    return any(typed.lstrip("+").partition("=")[0] == option for typed in HydraConfig.get().overrides.task)


def output_folder(path: str | Path, new: bool = False) -> Path:
    """Makes the folder that results go to, which is this process's alone until the command ends.

    Args:
        path: The folder.
        new: It must not be there yet: where it is, `<path>-2`, `<path>-3`, ... are tried, so that no two runs share one.

    Raises:
        OSError: When it can't be made or written, or another process writes to it.
    """
    path = Path(path)
    try:
        for number in itertools.count(2):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = path if number == 2 else path.with_name(f"{path.name}-{number - 1}")
            with contextlib.suppress(*([FileExistsError] if new else [])):
                folder.mkdir(exist_ok=not new)
                break
        reason = None if os.access(folder, os.W_OK) else "no permission to write"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise OSError(f"`output` must be a folder that can be written, got {path} ({reason}): choose another place.")
    if not lock(folder):
        raise OSError(f"`output`: another process writes to {folder}: wait until it has ended, or name another folder.")
    return folder


def number(name: str, value: Any, least: float) -> Any:
    """Returns the value of an option if it is a number of at least `least`, and whole where `least` is.

    Raises:
        ValueError: When it is not.
    """
    kind = int if isinstance(least, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:
        raise ValueError(f"`{name}` must be a {'whole ' * (kind is int)}number of at least {least}, got {value!r}.")
    return value
