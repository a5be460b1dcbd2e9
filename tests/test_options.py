"""What is typed is what is meant: names with any letters, `~`, plain arguments, several values, sweeps."""

import os
from pathlib import Path

import pytest
from helpers import refused
from hydra.core.override_parser.overrides_parser import OverridesParser

from wavflow.options import overrides

NAMES = [
    *("über.wav", "it's.wav", "(x).wav", "日本語.wav", "a=b.wav", "a#b&c;d.wav", "[x].wav", "{x}.wav", "a,b.wav", "2026"),
    *("true", "a\\b.wav", "c\\", "two words.wav", 'say "hi".wav', "tab\there.wav", "1_000", "1e3"),
    os.fsdecode(b"lat\xe9in.wav"),
]


def read(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_it_is(name: str) -> None:
    (override,) = overrides([f"input={name}"])
    assert read(override) == name
    (override,) = overrides([f"./{name}"], plain="input")
    assert read(override) == f"./{name}"
    (override,) = overrides(["-o", name])
    assert read(override) == name


def test_other_options_are_read_as_hydra_reads_them_or_else_as_words() -> None:
    assert [read(option) for option in overrides(["a=3", "b.c=[1,2]", "d=null", "e=p225"])] == [3, [1, 2], None, "p225"]
    typed = ["speaker=Jürgen", "speaker=O'Brien", "output=null"]
    assert [read(option) for option in overrides(typed)] == ["Jürgen", "O'Brien", None]
    assert overrides(["~callbacks.listen", "+net.x=2", "-m"]) == ["-m", "~callbacks.listen", "+net.x=2"]


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for typed in ("data.path=~/wavs", 'output="~/wavs"', "output='~/wavs'", "anything=~/wavs", "~/wavs"):
        (override,) = overrides([typed], plain="input")
        assert read(override) == "/home/me/wavs"


def test_several_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lists = ("model", "input", "part")
    for typed in ("model=a,b", "model=[a,b]", 'model="a",b'):
        (override,) = overrides([typed], lists)
        assert read(override) == ["a", "b"]
    assert [read(option) for option in overrides(["part=a,b", "model=a"], lists)] == [["a", "b"], "a"]
    Path("a,b").touch()
    Path("seed=1").touch()
    assert [read(option) for option in overrides(["model=a,b"], lists)] == ["a,b"]
    typed = ["ü.wav", "seed=1", "temperature=0.8", "b.wav"]
    assert [read(option) for option in overrides(typed, lists, "input")] == [0.8, ["ü.wav", "seed=1", "b.wav"]]
    refused(lambda: overrides(["a.wav", "b.wav"], plain="input"), r"`input` is one, got 2: a\.wav, b\.wav")


def test_sweeps_keep_their_values() -> None:
    flag, *options = overrides(["-m", "input=ü.wav,b.wav", "seed=1,2", "teacher=choice(a,b)"])
    assert flag == "-m"
    sweeps = [OverridesParser.create().parse_override(option) for option in options]
    assert all(sweep.is_sweep_override() for sweep in sweeps)
    assert [list(sweep.sweep_string_iterator()) for sweep in sweeps] == [["'ü.wav'", "'b.wav'"], ["1", "2"], ["a", "b"]]


def test_a_file_that_begins_like_a_flag_is_told_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: overrides(["-a.wav"], plain="input"), "there is no such flag")
    Path("-a.wav").touch()
    refused(lambda: overrides(["-a.wav"], plain="input"), "`-a.wav` begins like a flag: write ./-a.wav")
    assert overrides(["./-a.wav"], plain="input") == ["input='./-a.wav'"]
