"""Folders of sounds: which files belong together, what is resampled, and what is left out and said."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import tone
from helpers import refused

from wavflow.audio import read_audio
from wavflow.evaluation.folders import read_folders


def fill(folder: Path, *names: str, seconds: float = 0.1, sample_rate: int = 8000) -> Path:
    """Writes a tone under each name, another for each."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone(seconds, 150 + 25 * i, sample_rate), sample_rate)
    return folder


@pytest.mark.parametrize(
    ("recordings", "generated", "pairs"),
    [
        (["a.wav", "b.wav"], ["b.flac", "a.wav"], {"a": "a.wav", "b": "b.flac"}),
        (["x/a.wav", "y/a.wav"], ["y/a.wav", "x/a.wav"], {"x/a": "x/a.wav", "y/a": "y/a.wav"}),
        (["a.wav"], ["a_generated.wav"], {"a": "a_generated.wav"}),
        (["a.wav"], ["a_generated.wav", "a.wav"], {"a": "a.wav"}),
        (["1.wav", "2.wav"], ["1-x.wav", "12.wav", "2.wav"], {"1": "1-x.wav", "2": "2.wav"}),
        (["a.wav", "a_1.wav"], ["a_1.wav"], {"a_1": "a_1.wav"}),
        (["a.wav", "a_1.wav"], ["a_1_gen.wav", "a_gen.wav"], {"a": "a_gen.wav", "a_1": "a_1_gen.wav"}),
        (["a.wav", "b.wav"], ["a_x.wav", "a_y.wav", "b.wav"], {"b": "b.wav"}),
        (["v1.5.wav"], ["v1.5.wav"], {"v1.5": "v1.5.wav"}),
    ],
)
def test_files_are_matched_by_name(tmp_path: Path, recordings: list[str], generated: list[str], pairs: dict[str, str]) -> None:
    reference, folder = fill(tmp_path / "r", *recordings), fill(tmp_path / "g", *generated)
    sounds = read_folders(reference, {"g": folder})
    assert sounds.sample_rate == 8000
    assert sounds.clips.keys() == pairs.keys()
    for name, path in pairs.items():
        assert list(sounds.clips[name]) == ["recording", "g"]
        assert torch.equal(sounds.clips[name]["g"], read_audio(folder / path)[0])
        assert torch.equal(sounds.clips[name]["recording"], read_audio(reference / f"{name}.wav")[0])


def test_what_has_no_counterpart_is_said(tmp_path: Path) -> None:
    reference = fill(tmp_path / "r", "a.wav", "b.wav", *(f"{i}.wav" for i in range(5)))
    folders = {"one": fill(tmp_path / "1", "a.wav", "b.wav", "q.wav"), "two": fill(tmp_path / "2", "b.wav")}
    sounds = read_folders(reference, folders)
    found = {name: list(clip) for name, clip in sounds.clips.items()}
    assert found == {"a": ["recording", "one"], "b": ["recording", "one", "two"]}
    (row,) = sounds.left_out
    assert (row["clip"], row["system"]) == ("a", "two")
    assert str(folders["two"]) in row["why"]
    assert sounds.notes == [
        "5 of the recordings without a counterpart, not compared: 0, 1, 2 and 2 more",
        "1 of one without a recording, not compared: q",
    ]


def test_folders_that_share_no_name_are_refused_with_the_names_of_both(tmp_path: Path) -> None:
    reference, folder = fill(tmp_path / "r", "a.wav", "b.wav"), fill(tmp_path / "g", "c.wav")
    good = fill(tmp_path / "good", "a.wav")
    words = r"`generated`: no file in .*/g is named like one in .*/r \(c against a, b\): give them"
    refused(lambda: read_folders(reference, {"good": good, "g": folder}), words)
    refused(lambda: read_folders(reference, {"g": tmp_path / "nowhere"}), r"there is no .*nowhere", FileNotFoundError)


def test_other_rates_are_resampled_and_said(tmp_path: Path) -> None:
    reference = fill(tmp_path / "r", "a.wav", "b.wav", seconds=0.5)
    fill(reference, "c.wav", seconds=0.5, sample_rate=16000)
    folder = fill(tmp_path / "g", "a.wav", "b.wav", "c.wav", seconds=0.5, sample_rate=11025)
    sounds = read_folders(reference, {"g": folder})
    assert sounds.sample_rate == 8000
    assert {len(sound) for clip in sounds.clips.values() for sound in clip.values()} <= {4000, 4001}
    first = sounds.clips["a"]
    assert np.corrcoef(first["g"][:4000], first["recording"])[0, 1] > 0.95
    assert sorted(sounds.notes) == ["1 of recording resampled from 16000 to 8000 Hz", "3 of g resampled from 11025 to 8000 Hz"]


def test_unreadable_files_are_left_out_and_do_not_choose_the_rate(tmp_path: Path) -> None:
    names = ("a.wav", "b.wav", "c.wav")
    reference, folder = fill(tmp_path / "r", *names), fill(tmp_path / "g", *names)
    (reference / "a.wav").write_text("no audio")
    fill(folder, "a.wav", sample_rate=16000)
    soundfile.write(folder / "b.wav", np.full(900, np.nan), 8000, subtype="FLOAT")
    sounds = read_folders(reference, {"g": folder})
    assert sounds.sample_rate == 8000
    assert list(sounds.clips) == ["c"]
    found = {(row["clip"], row["system"]): row["why"] for row in sounds.left_out}
    assert found.keys() == {("a", "recording"), ("b", "g")}
    assert "can be decoded" in found["a", "recording"]
    assert "holds NaN" in found["b", "g"]
    assert not sounds.notes
    (reference / "c.wav").write_bytes(b"")
    words = r"`reference`: no clip of .*/r can be compared\. The first: .*can be decoded"
    refused(lambda: read_folders(reference, {"g": folder}), words)


def test_limit_counts_what_has_a_counterpart(tmp_path: Path) -> None:
    reference = fill(tmp_path / "r", "a.wav", "b.wav", "c.wav", "d.wav")
    folder = fill(tmp_path / "g", "b.wav", "c.wav", "d.wav")
    assert list(read_folders(reference, {"g": folder}, limit=2).clips) == ["b", "c"]
