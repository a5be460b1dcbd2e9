"""What all commands use: Hydra's entry, errors as one line, and where models are found and results go."""

from __future__ import annotations

import contextlib
import difflib
import getpass
import importlib
import io
import itertools
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from tqdm import tqdm

from wavflow import __version__
from wavflow.files import lock, unlock_all
from wavflow.help import help_text
from wavflow.options import NO_FILES, as_dict, check_places, flat, overrides

COMES_WITH_WAVFLOW = {"student": "lj-student", "teacher": "lj-teacher", "text": "kathleen-text"}
"""The model that is taken for a stage where none is named and there is no run."""


def command(name: str, lists: tuple[str, ...] = (), plain: str | None = None) -> Callable[[], None]:
    """Returns a command: it reads conf/<name>.yaml and what was typed, and fails with one line.

    The work is done by `run` of wavflow.commands.<name>, which is imported late: torch takes seconds, and help and errors in
    what was typed need none of it. Each run of a sweep (`-m`) has a numbered output.

    Args:
        name: Name of the command and of its configuration.
        lists: Options that take several values as `key=a,b`, where Hydra itself wants `key=[a,b]`.
        plain: The option that arguments without a key are values of.
    """

    def main() -> None:
        typed = list(sys.argv)

        def job(cfg: DictConfig) -> None:
            sys.argv = typed
            with one_line_errors():  # here already, since Hydra prints a line of its own for what comes out of a job
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    cfg.output = numbered(cfg.output, HydraConfig.get().job.num)
                check_kinds(cfg, name)
                check_places(cfg, HydraConfig.get().runtime.choices.get("data") == "shards")
                run = importlib.import_module(f"wavflow.commands.{name}").run
                with quiet():  # once more: Lightning speaks up when it is imported
                    run(cfg)

        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print, and we word it
        try:
            getpass.getuser()
        except (KeyError, OSError):  # in a container a user may have a number alone, and torch asks for a name
            os.environ["USER"] = str(os.getuid())
        try:
            with one_line_errors(), quiet():
                if "--version" in typed:
                    return print(f"wavflow {__version__}")
                asked = {"-h", "--help"}.intersection(typed)
                options = overrides([item for item in typed[1:] if item not in asked], lists, plain)
                if asked:
                    return print(help_text(name, options))
                sys.argv = [typed[0], *options, *NO_FILES]
                hydra.main(version_base="1.3", config_path="pkg://wavflow.conf", config_name=name)(job)()
        finally:
            sys.argv = typed
            unlock_all()

    return main


def check_kinds(cfg: DictConfig, config: str) -> None:
    """Raises ValueError where an option is of another kind than its default: a word for a number, or a negative number.

    Numbers may be null or auto; those of the trainer may be -1, which to Lightning means all.
    """
    choices = HydraConfig.get().runtime.choices
    typed = [option.partition("=")[0].lstrip("+") for option in HydraConfig.get().overrides.task]
    groups = [f"{key}={choices[key]}" for key in typed if choices.get(key) is not None]
    values = [key for key in typed if key not in choices]
    defaults = compose(config, groups) if values else cfg
    for key in values:
        default, value = OmegaConf.select(defaults, key), OmegaConf.select(cfg, key)
        if value is None or value == "auto":
            continue
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ValueError(f"`{key}` must be true or false, got {value!r}.")
        if isinstance(default, int | float) and not isinstance(default, bool):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"`{key}` must be a number, got {value!r}.")
            if value < 0 <= default and not key.startswith("trainer."):
                raise ValueError(f"`{key}` must not be negative, got {value!r}.")


def numbered(output: str, number: int) -> str:
    """Returns the place of one run of a sweep: `out/y.wav` becomes `out/y-0.wav`, a folder `out` becomes `out-0`."""
    path = Path(output)
    return str(path.with_name(f"{path.stem}-{number}{path.suffix}" if path.suffix[1:2].isalpha() else f"{path.name}-{number}"))


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with one clear line and status 1 where a user's input is at fault.

    WAVFLOW_TRACEBACK=1 shows where an error came from. Errors that we did not foresee keep their traceback. Characters that the
    terminal can't show are printed as escapes. A closed pipe (`| head`) ends the process without a line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes at its end
        raise SystemExit(128 + signal.SIGPIPE) from None  # as a shell counts it
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get("WAVFLOW_TRACEBACK"):
            traceback.print_exc()
        tqdm.write(f"wavflow: {' '.join(explain(error).split())}", file=sys.stderr)  # on a line of its own, if there is a bar
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        tqdm.write("wavflow: interrupted", file=sys.stderr)
        raise SystemExit(130) from None  # as a shell counts it


def explain(error: BaseException) -> str:
    """Returns an error's message; those of Hydra and OmegaConf reworded for a user who types options."""
    cause = error.__cause__
    if isinstance(error, InstantiationException) and cause is not None:
        text, part = explain(cause), re.search(r"full_key: (\S+)", str(error))
        if part is None:
            return text
        if not text.startswith("`"):
            return f"`{part[1]}`: {text}"
        return re.sub(rf"^`(?!{re.escape(part[1])}\.)([\w.]+)`", rf"`{part[1]}.\1`", text)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"`{group}` has no option {name!r}: choose one of {', '.join(error.options)}."
    if isinstance(error, OverrideParseException):
        return f"`{error.override}` can't be read as an option: write key=value."
    if isinstance(error, MissingMandatoryValue):
        return f"`{error.full_key}` is needed and was not given: add {error.full_key}=<value>."
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        known = [str(key) for key in cause.parent_node or () if key != "hydra"]
        near = difflib.get_close_matches(str(cause.key), known, 1)
        parent = cause.full_key.removesuffix(str(cause.key))
        node = cause.parent_node
        if isinstance(node, DictConfig) and (elsewhere := _found_below(as_dict(node, resolve=False), str(cause.key))):
            return f"`{cause.full_key}`: there is no such key: did you mean {' or '.join(elsewhere)}?"
        hint = f"did you mean {parent}{near[0]}?" if near else f"choose one of {', '.join(known)}."
        return f"`{cause.full_key}`: there is no such key: {hint}"
    return re.sub(r"^`path` must be writable", "`output` must be writable", str(error))  # commands write nowhere else


def _found_below(node: dict[str, Any], key: str) -> list[str]:
    """Returns the full keys below a node that end in a key."""
    ends = re.compile(rf"(?!hydra\.).*\.{re.escape(key)}(?=\.|$)")
    return list(dict.fromkeys(found[0] for name, _ in flat(node) if (found := ends.match(name))))


class Told(logging.Handler):
    """Prints what is logged as a line on stderr, above a bar of progress."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"wavflow: {record.getMessage()}", file=sys.stderr)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Shows each warning as one line, and none that a user can't act on, such as Lightning's advertisements.

    On a terminal, what the package logs is shown too.
    """
    lightning, own, form = logging.getLogger("pytorch_lightning"), logging.getLogger("wavflow"), warnings.formatwarning
    before = lightning.level, own.level, own.handlers, own.disabled
    with warnings.catch_warnings():
        for message in (
            r"`isinstance\(treespec, LeafSpec\)`",
            "The '.*_dataloader' does not have many workers",
            "Experiment logs directory",
            "The `srun` command is available",
            "The dirpath has changed",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            lightning.setLevel(logging.WARNING)
            own.disabled = False  # Hydra disables the loggers that it finds
            if sys.stderr.isatty():
                own.setLevel(logging.INFO)
                own.handlers = [Told()]
            warnings.formatwarning = lambda message, *_args, **_kwargs: f"wavflow: warning: {message}\n"
            yield
        finally:  # what comes after it, in a notebook, is the user's own
            lightning.setLevel(before[0])
            own.setLevel(before[1])
            own.handlers, own.disabled = before[2:]
            warnings.formatwarning = form


def newest_model(stage: str, key: str | None = None) -> Path:
    """Returns the model file of the newest run of a stage; `key` is the option that names another, `stage` if not given.

    A line on stderr names it. Where there is no run, the option `model` takes one of `COMES_WITH_WAVFLOW`; other options do
    not, since one trains from, and compares, models of one's own.

    Raises:
        FileNotFoundError: When there is none, with the command that makes one.
    """
    from wavflow.models import released_models  # torch takes seconds, and `--help` needs none of it

    key, runs, name = key or stage, Path("runs", stage), COMES_WITH_WAVFLOW.get(stage, "")
    models = sorted(runs.glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not models and key == "model" and (path := released_models().get(name)):
        print(f"No model was named and there is none in {runs}: model={name}, of one voice.", file=sys.stderr)
        return path
    if not models:
        raise FileNotFoundError(
            f"`{key}`: no {stage} was named and there is none in {runs}: "
            f"train one with `python -m wavflow.train stage={stage}`, or name one with {key}=<model.safetensors>."
        )
    print(f"No {stage} was named: {key}={models[-1]}, the newest of {runs}.", file=sys.stderr)
    return models[-1]


def named(paths: list[str], option: str, taken: Iterable[str]) -> dict[str, Path]:
    """Names each path by its shortest end that no other path has; a run's model.safetensors by its run."""
    places = [Path(os.path.abspath(path)).as_posix() for path in paths]
    parts = [place.removesuffix("/model.safetensors").removesuffix(".safetensors").split("/") for place in places]
    for depth in range(1, 1 + max(map(len, parts), default=0)):
        names = ["-".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            names = [f"{option} {name}" if name in taken else name for name in names]
            return {name: Path(path) for name, path in zip(names, paths, strict=True)}
    if paths:
        raise ValueError(f"`{option}` must name different things, got {', '.join(paths)}: name each once.")
    return {}


def given(option: str) -> bool:
    """Whether an option was named in the command that runs."""
    return any(typed.lstrip("+").partition("=")[0] == option for typed in HydraConfig.get().overrides.task)


def output_folder(path: str | Path, new: bool = False, shared: bool = False) -> Path:
    """Makes the folder for results and locks it until the command ends.

    Args:
        path: The folder.
        new: Whether it must be a new one: if it is there, `<path>-2`, `<path>-3`, ... are tried, so that each run has its own.
        shared: Whether other processes of the same command write to it too.

    Raises:
        OSError: When it can't be made or written, or another process writes to it.
    """
    path = Path(path)
    try:
        for number in itertools.count(1):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
            with contextlib.suppress(*([FileExistsError] if new else [])):
                folder.mkdir(exist_ok=not new)
                break
    except OSError as error:
        words = f"`output` must be a folder that can be written, got {path} ({error.strerror}): choose another place."
        raise OSError(words) from error
    if not lock(folder, shared):
        raise OSError(f"`output`: another process writes to {folder}: wait until it has ended, or name another folder.")
    return folder


def listed(value: Any) -> list[str]:
    """Returns the values of an option that may hold none, one or several."""
    return [] if value is None else [str(item) for item in value] if isinstance(value, ListConfig) else [str(value)]


def number(name: str, value: Any, least: float, above: bool = False) -> Any:
    """Returns an option's value; ValueError unless it is a number of at least (or `above`) `least`, whole where `least` is."""
    kind = int if isinstance(least, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not (value > least if above else value >= least):
        needed = "above" if above else "of at least"
        raise ValueError(f"`{name}` must be a {'whole ' * (kind is int)}number {needed} {least}, got {value!r}.")
    return value
