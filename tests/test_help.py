"""`--help`: every option with its words, and no choice that is another command's."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import call
from helpers import refused

import wavflow.__main__
from wavflow.cli import newest_model
from wavflow.help import CONF, help_text, options, words_of

ROOT = Path(__file__).parents[1]
COMMANDS = ["train", "synthesize", "evaluate", "score", "compress", "export", "density", "benchmark", "speak", "serve"]
CHOICES = {name: re.findall(r"^  - (\w+): \S+ # ", (CONF / f"{name}.yaml").read_text(), re.MULTILINE) for name in COMMANDS}
SHOWN = {f"{group}={option}": name for name in COMMANDS for group in CHOICES[name] for option in options(name, group)}


def entries(text: str) -> dict[str, str]:
    """Key to the words beside and below it, of what follows the examples."""
    found, key = {}, ""
    for line in text.partition("\nOptions")[2].splitlines():
        if option := re.match(r"  ([\w.]+)=(?:\S+|\[.*\]|\{.*\})(?:$|  +(.*))", line):
            key = option[1]
            found[key] = option[2] or ""
        elif line.startswith(" " * 30):
            found[key] += " " + line.strip()
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_three_examples_and_words_for_every_option(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call(command, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.count(f"  python -m wavflow.{command}") >= 3
    found = entries(outcome.out)
    assert {"port" if command == "serve" else "output", *CHOICES[command]} <= found.keys()
    assert not [key for key, words in found.items() if not words.strip(" :")]
    assert "hydra" not in outcome.out.lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", SHOWN)
def test_every_choice_has_words_for_itself_and_its_options(choice: str) -> None:
    stage = ["stage=student"] if choice.startswith("net=student") else []
    text = help_text(SHOWN[choice], [choice, *stage])
    assert not [key for key, words in entries(text).items() if not words.strip(" :")]
    assert not re.search(rf"^{choice}: $", text, re.MULTILINE)


def test_choices_are_the_commands_own() -> None:
    assert options("density", "data") == ["csv", "digits", "shape", "wine"]
    assert {"folder", "vctk"} <= set(options("train", "data"))
    assert not {"csv", "digits", "shape", "wine"} & set(options("train", "data"))
    assert "mic2" in entries(help_text("train", ["data=vctk"]))["data.part"], "a choice's own words go first"
    shown = help_text("density")
    assert "--help with another, e.g. data=csv," in shown, "an example is one of the command's own"
    assert "data=shape: Points in the plane" in shown


@pytest.mark.parametrize(
    ("command", "stage"),
    [("synthesize", "student"), ("export", "student"), ("score", "teacher"), ("compress", "teacher"), ("speak", "text")],
)
def test_where_there_is_no_run_the_model_is_the_one_of_the_help(
    command: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = newest_model(stage, "model").stem
    assert re.search(rf"\bor (else )?{name}(,|\.|$)", entries(help_text(command))["model"])


def test_words_are_found_by_full_key() -> None:
    text = "# head\na: 1 # one\nb:\n  c: '#2' # two\n  d: 3\ne: x#y\n"
    assert words_of(text, "p.") == {"p.a": "one", "p.b.c": "two"}


def test_the_package_lists_its_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {f"wavflow-{name}" for name in wavflow.__main__.COMMANDS} == scripts.keys()
    monkeypatch.setattr(sys, "argv", ["wavflow"])
    wavflow.__main__.main()
    assert "python -m wavflow.synthesize" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["wavflow", "score", "a.wav"])
    refused(lambda: wavflow.__main__.main(), r"write `python -m wavflow\.score`", SystemExit)


@pytest.mark.parametrize("command", ["synthesize", "prepare", "listen"])
def test_version(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = call(command, "--version")
    assert outcome.status == 0
    assert re.fullmatch(r"wavflow \d+\.\d+\.\d+\n", outcome.out)


def test_what_is_typed_is_read_without_torch() -> None:
    wrong = {name: ["nonsense=1"] for name in COMMANDS} | {"prepare": ["a", "b", "--audio=none"], "listen": ["--nonsense"]}
    code = f"""
import importlib, sys
heavy = {{"torch", "pytorch_lightning", "librosa", "numba", "matplotlib", "scipy"}}
for command, wrong in {wrong}.items():
    for sys.argv[1:] in (["--help"], ["--version"], wrong):
        try:
            importlib.import_module(f"wavflow.{{command}}").main()
        except SystemExit as end:
            status = end.code
    print("ended:", command, status, *heavy & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ended = [line for line in done.stdout.splitlines() if line.startswith("ended:")]
    assert ended == [f"ended: {command} {2 if command == 'listen' else 1}" for command in wrong], done.stderr


@pytest.mark.slow
def test_a_closed_pipe_is_no_error() -> None:
    command = [sys.executable, "-m", "wavflow.train", "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
