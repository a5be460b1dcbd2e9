"""A set of files divided among processes: each file once, what was done stays done, and what failed is told."""

import os
import re
from pathlib import Path

import pytest
from commands import call, contents, is_refused, make_sounds, succeeds
from helpers import refused, tiny_student, tiny_teacher
from test_score import table

from wavflow import save_model
from wavflow.files import read_lines
from wavflow.shares import Manifest, Share, end_share, share_of


@pytest.mark.parametrize(
    ("part", "environ", "expected"),
    [
        (None, {}, (0, 1, 0)),
        ("3/10", {}, (3, 10, 0)),
        (None, {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
        (None, {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}, (2, 4, 1)),
        ("1/3", {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}, (6, 12, 0)),
        (None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, (0, 1, 0)),  # a batch script, without srun
    ],
)
def test_a_process_knows_its_share(
    part: str | None, environ: dict[str, str], expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert share_of(part) == Share(*expected)


def test_shares_hold_each_file_once(capsys: pytest.CaptureFixture[str]) -> None:
    files = list(range(23))
    shares = [own for i in range(3) for own in Share(i, 3, i).split(2)]
    assert sorted(file for share in shares for file in share.rest(files, lambda _: False)) == files
    assert [share.local for share in shares] == list(range(6))
    capsys.readouterr()
    assert Share(1, 3, 0).rest(files, lambda file: file < 10) == [10, 13, 16, 19, 22]
    assert "Part 1/3: 8 of 23 files, 3 of them done already." in capsys.readouterr().err


@pytest.mark.parametrize("part", ["3/3", "-1/3", "1", "1/2/3", "a/b", "/", 3])
def test_no_such_share(part: str) -> None:
    refused(lambda: share_of(part), f"`share` must be i/n, .* got {part}:")


def test_manifests_of_all_processes_are_read_and_an_error_gives_way(tmp_path: Path) -> None:
    first = Manifest(tmp_path, "done", Share(0, 2, 0), {"seed": 1}, False)
    second = Manifest(tmp_path, "done", Share(1, 2, 0), {"seed": 1}, False)
    for manifest, file, what in ((first, "a", {"error": "x"}), (first, "b", {"error": "x"}), (second, "c", {"seconds": 1.5})):
        manifest.add(file, **what)
    with first.path.open("a") as file:
        file.write('{"file": "d", "sec')  # killed
    again = Manifest(tmp_path, "done", Share(0, 2, 0), {"seed": 1}, True)
    again.add("d", seconds=2.5)
    Manifest(tmp_path, "done", Share(0, 3, 0), {"seed": 1}, True).add("a", seconds=0.5)
    expected = {"a": {"seconds": 0.5}, "b": {"error": "x"}, "c": {"seconds": 1.5}, "d": {"seconds": 2.5}}
    assert again.read() == {file: {"file": file, **what} for file, what in expected.items()}
    other = {"seed": 2, "model": "m"}
    refused(lambda: Manifest(tmp_path, "done", Share(2, 3, 0), other, True), "is of other seed, model: give the same")
    assert Manifest(tmp_path, "done", Share(0, 2, 0), {"seed": 1}, False).read().keys() == {"c"}
    assert contents(tmp_path) == {"done-0-of-2.jsonl", "done-1-of-2.jsonl"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_told_with_the_manifest(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, "done", Share(0, 1, 0), {}, False)
    manifest.path = Path("/dev/full")
    refused(lambda: manifest.add("a"), "No space left on device: '/dev/full'", OSError)


def test_errors_of_a_share_are_counted() -> None:
    end_share({}, 3)
    refused(lambda: end_share({"a": OSError("gone")}, 1), "^gone$", OSError)
    many = {f"{i}.wav": ValueError(f"reason {i}") for i in range(30)}
    refused(lambda: end_share(many, 40), r"^30 of 40 files .*: 0\.wav, .* 19\.wav and 10 more\. The first: reason 0$")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_model(tiny_teacher(std=0.1).float(), tmp_path / "teacher.safetensors")
    save_model(tiny_student(0.1).float(), tmp_path / "student.safetensors")
    (make_sounds(tmp_path / "in", (0.1,) * 6) / "bad.wav").write_text("no sound")
    return tmp_path


@pytest.mark.parametrize(("command", "model"), [("synthesize", "student"), ("score", "teacher")])
def test_a_killed_command_goes_on(command: str, model: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def options(folder: str, *more: str) -> list[str]:
        paths = (f"model={place / model}.safetensors", f"input={place / 'in'}", f"output={place / folder}")
        return [*paths, "device=cpu", *more]

    assert "1 of 7 files failed" in call(command, *options("whole")).err
    done: list[object] = []

    def add(self: Manifest, file: object, _add=Manifest.add, **what: object) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt  # synthesize has written the file by now
        _add(self, file, **what)
        done.append(file)

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "add", add)
        assert call(command, *options("parts", "share=0/2")).status == 130
    below = place / "parts" / ("frames" if command == "score" else "")
    below.mkdir(exist_ok=True)
    old, young = (below / f".0.wav.{token * 12}.part" for token in "ab")
    for left in (old, young):
        left.touch()
    os.utime(old, (0, 0))
    for part, count in (("0/2", "4 of 7"), ("1/2", "3 of 7")):
        outcome = call(command, *options("parts", f"share={part}", "skip_done=true"))
        assert f"Part {part}: {count} files" in outcome.err
        assert outcome.err.count("of them done already") == (part == "0/2")
    assert not old.exists(), "a process was killed as it wrote it"
    assert young.exists(), "another may be writing to it"
    lines = [line for path in sorted((place / "parts").glob("*.jsonl")) for line in read_lines(path)[1:]]
    named = sorted(re.sub(".*/", "", line["file"]) for line in lines)
    assert len(set(named)) == len(named), "each file once"
    (bad,) = (line for line in lines if "error" in line)
    assert bad["file"].endswith("bad.wav")
    assert "not audio that can be decoded" in bad["error"]
    if command == "score":
        assert table(place / "parts/scores.csv") == table(place / "whole/scores.csv")
        assert len(list((place / "parts/pictures").iterdir())) == 4
    else:
        for i in range(6):
            assert (place / f"parts/{i}.wav").read_bytes() == (place / f"whole/{i}.wav").read_bytes()


def test_other_settings_and_half_a_set_are_told(place: Path) -> None:
    options = [f"input={place / 'in'}", f"output={place / 'out'}", "device=cpu"]
    outcome = call("score", f"model={place / 'teacher.safetensors'}", *options, "share=0/2")
    assert "3 files scored, 3 left to other processes" in outcome.out
    assert not (place / "out/scores.csv").exists()
    options += [f"model={place / 'teacher.safetensors'}", "skip_done=true"]
    is_refused(place, "score", *options, "frames=true", words="`skip_done`|scores-0-of-2.jsonl is of other frames")
    is_refused(place, "score", *options, "share=2/2", words="`share` must be i/n")
    (place / "in/bad.wav").unlink()
    outcome = succeeds("score", *options)
    assert "Part 0/1: 6 of 6 files, 3 of them done already." in outcome.err
    assert len(table(place / "out/scores.csv")) == 6
