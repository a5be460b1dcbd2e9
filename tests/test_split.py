"""Which files train, validate and test: by hashes of names, which new files do not move, or as an earlier run had it."""

import json
import random
from functools import partial
from pathlib import Path

import pytest
from commands import make_sounds
from helpers import refused, tiny_mel, tiny_teacher

import wavflow
from wavflow.commands.evaluate import hold_out
from wavflow.data import AudioDataModule, split_files
from wavflow.data.split import SPLITS, file_name, follow_split, read_split


def paths(folder: Path, count: int, first: int = 0) -> list[Path]:
    return [folder / f"speaker{i % 3}" / f"{i}.wav" for i in range(first, first + count)]


@pytest.mark.parametrize("count", [3, 4, 7, 20, 101])
def test_split_is_a_reproducible_partition(tmp_path: Path, count: int) -> None:
    here, elsewhere = paths(tmp_path / "x", count), paths(tmp_path / "other", count)
    random.Random(1).shuffle(elsewhere)
    train, validation, test = split = split_files(here)
    assert sorted(train + validation + test) == sorted(here)
    assert train
    assert validation
    assert test
    names = [[path.relative_to(tmp_path / "x") for path in part] for part in split]
    assert names == [[path.relative_to(tmp_path / "other") for path in part] for part in split_files(elsewhere)]
    if count == 101:
        assert split_files(here, seed=1) != split


def test_parts_have_the_fractions_asked_for() -> None:
    parts = split_files(paths(Path("x"), 20_000), 0.05, 0.1)
    assert [len(part) / 20_000 for part in parts] == pytest.approx([0.85, 0.05, 0.1], abs=0.006)  # four deviations


@pytest.mark.parametrize("seed", range(3))
def test_one_more_file_moves_no_other(seed: int) -> None:
    """With few files, a part that would be empty borrows one; it goes back to training, but none comes from there."""
    for count in (3, 5, 8, 13, 20, 200):
        before = [set(part) for part in split_files(paths(Path("x"), count), seed=seed, folder="x")]
        for more in range(1, 30):
            grown = [*paths(Path("x"), count), *paths(Path("x"), more, first=count)]
            after = [set(part) for part in split_files(grown, seed=seed, folder="x")]
            assert before[0] <= after[0]
            if count == 200:
                assert all(old <= new for old, new in zip(before, after, strict=True))


def test_a_name_does_not_tell_format_or_place() -> None:
    assert file_name("/data/wavs/a/b.c.wav", "/data/wavs") == file_name("x/a/b.c.flac", "x") == "a/b.c"
    assert file_name("x/u\u0308.wav", "x") == file_name("x/ü.wav", "x")
    split_files([Path(f"x/\udcff{i}.wav") for i in range(4)])  # a name that is not UTF-8


@pytest.mark.parametrize("fractions", [(0.5, 0.49), (0.01, 0.98), (0.98, 0.01)])
def test_split_leaves_a_file_in_each_part(fractions: tuple[float, float]) -> None:
    for count in (3, 4, 5):
        parts = split_files([Path(f"{i}.wav") for i in range(count)], *fractions)
        assert min(map(len, parts)) >= 1
        assert sum(map(len, parts)) == count


def test_split_of_one_or_two_files() -> None:
    train, validation, test = split_files([Path("a.wav"), Path("b.wav")])
    assert validation == test
    assert {*train, *test} == {Path("a.wav"), Path("b.wav")}
    with pytest.warns(UserWarning, match=r"one audio file alone.*a\.wav"):
        assert split_files([Path("a.wav")]) == ([Path("a.wav")],) * 3


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.1, -0.1), (0.5, 0.5), (1.0, 0.1)])
def test_split_refuses(fractions: tuple[float, float]) -> None:
    refused(lambda: split_files([Path("a.wav")], *fractions), "`validation` and `test` must be fractions")
    refused(lambda: split_files([]), "got none")


def named(*names: str) -> list[Path]:
    return [Path("x", f"{name}.wav") for name in names]


def test_a_stored_split_is_followed_and_new_files_join() -> None:
    files = named("a", "b", "c", "d", "e")
    parts = (named("a", "b", "c"), named("d"), named("e"))
    stored = {"train": ["d", "a"], "validation": ["b"], "test": ["gone", "c"]}
    assert follow_split(stored, files, parts, "x") == (named("d", "a"), named("b"), named("c", "e"))
    # a model's file holds no list of what it was trained on, so all that it did not hold out counts as such
    held_out = {"validation": ["b"], "test": ["c"]}
    assert follow_split(held_out, files, parts, "x") == (named("a", "d", "e"), named("b"), named("c"))


def test_a_stored_split_is_found_in_another_folder_or_not_at_all() -> None:
    files = [Path("x/wavs/a.wav"), Path("x/wavs/b.wav")]
    parts = (files[:1], files[1:], files[1:])
    assert follow_split({"test": ["a"]}, files, parts, "x") == (files[1:], [], files[:1])
    assert follow_split({"test": ["c"]}, files, parts, "x") is None
    assert follow_split({"test": ["a"], "validation": ["c"]}, files, parts, "x") is None, "nothing to validate with"
    twice = [Path("x/one/a.wav"), Path("x/two/a.wav")]
    assert follow_split({"test": ["a"]}, twice, parts, "x") is None, "which of the two?"
    both = {"train": ["a"], "validation": ["b"], "test": ["b"]}
    two = (named("b"), named("a"), named("a"))
    assert follow_split(both, named("a", "b"), two, "x") == (named("a"), named("b"), named("b"))


def test_a_split_is_read_and_checked(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(json.dumps({"test": ["a"], "more": 1}))
    assert read_split(tmp_path / "split.json") == {"test": ["a"]}
    refused(lambda: read_split(tmp_path / "none.json"), "`split` must name a JSON file", FileNotFoundError)
    (tmp_path / "no.json").write_text("{")
    refused(lambda: read_split(tmp_path / "no.json"), "`split` must be a JSON file")
    for wrong in ({}, {"test": "a"}, {"test": [1]}, {"test": []}):
        refused(partial(read_split, wrong), "`split` must hold lists of names")


def test_the_data_keep_to_a_split_that_they_are_given(tmp_path: Path) -> None:
    make_sounds(tmp_path, (0.1,) * 12)
    before = AudioDataModule(tiny_mel(), tmp_path, segment_length=160)
    stored = before.split
    assert sorted(name for part in SPLITS for name in stored[part]) == sorted(map(str, range(12)))
    turned = {"train": stored["train"][::-1], "validation": stored["test"], "test": stored["validation"]}
    after = AudioDataModule(tiny_mel(), tmp_path, segment_length=160)
    after.follow(turned)
    assert after.split == turned
    (tmp_path / "turned.json").write_text(json.dumps(turned))
    after = AudioDataModule(tiny_mel(), tmp_path, segment_length=160, split=tmp_path / "turned.json")
    after.follow(stored)  # what was asked for goes first
    assert after.split == turned
    other = AudioDataModule(tiny_mel(), tmp_path, segment_length=160)
    other.follow({"test": ["of another corpus"]})
    assert other.split == stored
    other = AudioDataModule(tiny_mel(), tmp_path, segment_length=160)
    other.follow({"test": ["of another corpus"]}, must_fit=True)
    refused(lambda: other.setup(), "`split` does not fit the files below")


def test_models_are_tested_on_what_all_of_them_held_out(tmp_path: Path) -> None:
    make_sounds(tmp_path, (0.1,) * 6)
    models = {name: tiny_teacher() for name in ("one", "two", "old")}
    models["one"].info = {"split": {"test": ["4", "1", "2"]}, "steps": 1}
    models["two"].info = {"split": {"test": ["2", "3", "4"]}, "steps": 1}
    models["old"].info = {"steps": 1}
    paths = {name: Path(f"{name}.safetensors") for name in models}
    data = AudioDataModule(tiny_mel(), tmp_path, segment_length=160)
    with pytest.warns(UserWarning, match="old.safetensors does not tell which clips were held out"):
        hold_out(data, models, paths)
    assert [path.stem for path in data.files("test")] == ["4", "2"]
    models["two"].info["split"]["test"] = ["3"]
    with pytest.raises(ValueError, match=r"`model`: no clip was held out from the training of all of one\.safetensors, two"):
        hold_out(data, models, paths)


def test_the_released_models_tell_what_they_held_out() -> None:
    splits = [wavflow.load_model(name).info["split"] for name in ("lj-teacher", "lj-student")]
    assert splits[0] == splits[1]
    assert [len(splits[0][part]) for part in ("validation", "test")] == [8, 15]
    assert "LJ027-0006" in splits[0]["test"], "the clip that comes with them"
