"""Published corpora in small trees of their own layout, and tables of files: which files there are and who speaks in them."""

import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torchaudio.datasets
from commands import is_refused
from helpers import refused, tiny_mel

from wavflow.data import AudioDataModule, find_corpus, read_table
from wavflow.data.corpora import CORPORA

# what is recognized of each, and who speaks there
LAYOUTS = {
    "ljspeech": {"LJSpeech-1.1/wavs/LJ001-0001.wav": None, "LJSpeech-1.1/wavs/LJ050-0278.wav": None},
    "vctk": {
        "VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic2.flac": "p225",
        "VCTK-Corpus-0.92/wav48_silence_trimmed/p376/p376_295_mic2.flac": "p376",
        "VCTK-Corpus-0.92/wav48_silence_trimmed/s5/s5_400_mic2.flac": "s5",
    },
    "libritts": {
        "LibriTTS/dev-clean/84/121123/84_121123_000007_000001.wav": "84",
        "LibriTTS/train-clean-100/1034/121119/1034_121119_000005_000001.wav": "1034",
    },
    "cmuarctic": {
        "ARCTIC/cmu_us_aew_arctic/wav/arctic_a0001.wav": "aew",
        "ARCTIC/cmu_us_slt_arctic/wav/arctic_b0539.wav": "slt",
    },
    "yesno": {"waves_yesno/0_0_0_0_1_1_1_1.wav": None, "waves_yesno/1_1_1_1_1_1_1_1.wav": None},
}
# what lies beside it and is left alone
BESIDE = {
    "ljspeech": ["LJSpeech-1.1/wavs/LJ1-1.wav", "other/speech.wav"],
    "vctk": ["VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac"],
    "libritts": ["LibriTTS/84_121123.wav"],
    "cmuarctic": ["ARCTIC/cmu_us_slt_arctic/orig/arctic_b0539.wav"],
    "yesno": ["waves_yesno/0_0_0_0_1_1_1.wav", ".yesno.part/waves_yesno/0_0_0_0_1_1_1_1.wav"],
}


def sound() -> bytes:
    """A tenth of a second of noise, as wav."""
    file = io.BytesIO()
    sf.write(file, np.random.default_rng(0).uniform(-0.5, 0.5, 800), 8000, format="WAV")
    return file.getvalue()


def plant(root: Path, names: Any) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(sound())
    return root


def below(root: Path, found: dict[Path, Any]) -> dict[str, Any]:
    return {path.relative_to(root).as_posix(): speaker for path, speaker in found.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_corpus_is_recognized_from_any_folder_of_it(tmp_path: Path, name: str) -> None:
    plant(tmp_path, [*(file for names in LAYOUTS.values() for file in names), *BESIDE[name]])
    assert below(tmp_path, find_corpus(name, tmp_path)) == LAYOUTS[name]
    assert list(find_corpus(name, tmp_path)) == [tmp_path / file for file in sorted(LAYOUTS[name])]
    for file, speaker in LAYOUTS[name].items():
        for folder in (tmp_path / file).parents:
            if folder.is_relative_to(tmp_path):
                assert find_corpus(name, folder)[tmp_path / file] == speaker


def test_every_corpus_has_a_configuration_and_a_layout() -> None:
    options = Path(__file__).parents[1] / "conf" / "data"
    assert CORPORA.keys() == LAYOUTS.keys()
    assert all(f"corpus: {name}" in (options / f"{name}.yaml").read_text() for name in CORPORA)


def test_parts_are_chosen(tmp_path: Path) -> None:
    for name in ("vctk", "libritts", "cmuarctic"):
        plant(tmp_path, [*LAYOUTS[name], *BESIDE[name]])
    old = "VCTK-Corpus/wav48/p226/p226_001.wav"  # the version before has one microphone
    plant(tmp_path, [old])
    assert below(tmp_path, find_corpus("libritts", tmp_path, "dev-clean")) == dict([next(iter(LAYOUTS["libritts"].items()))])
    assert set(find_corpus("cmuarctic", tmp_path, "slt").values()) == {"slt"}
    assert below(tmp_path, find_corpus("vctk", tmp_path)) == LAYOUTS["vctk"] | {old: "p226"}
    assert below(tmp_path, find_corpus("vctk", tmp_path, "mic1")) == dict.fromkeys(BESIDE["vctk"], "p225") | {old: "p226"}
    for arguments, words in (
        (("libritts", tmp_path, "dev-other"), "no file of libritts, part dev-other, below"),
        (("ljspeech", tmp_path), r"no file of ljspeech below .* data.download=true"),
        (("ljspeech", tmp_path / "none"), "no file of ljspeech"),
    ):
        refused(partial(find_corpus, *arguments), words, FileNotFoundError)
    refused(lambda: find_corpus("ljspeech", tmp_path, "x"), "`part` must be left out, since ljspeech has no parts, got 'x'")
    refused(lambda: find_corpus("timit", tmp_path), r"`corpus` must be one of ljspeech, vctk, .*, got 'timit'")


def tarred(names: Any) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in names:
            content = b"" if name.endswith((".csv", ".data")) else sound()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def zipped(names: Any) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, sound() if name.endswith(".flac") else "a text")
    return archive.getvalue()


def without_top(name: str) -> list[str]:
    return [file.partition("/")[2] for file in LAYOUTS[name]]


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "ljspeech": lambda: tarred([*LAYOUTS["ljspeech"], "LJSpeech-1.1/metadata.csv"]),
    "vctk": lambda: zipped([*without_top("vctk"), "txt/p225/p225_001.txt"]),
    "libritts": lambda: tarred([file for file in LAYOUTS["libritts"] if "100" in file]),
    "cmuarctic": lambda: tarred([without_top("cmuarctic")[0], "cmu_us_aew_arctic/etc/txt.done.data"]),
    "yesno": lambda: tarred(LAYOUTS["yesno"]),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_corpus_is_downloaded_when_asked_for_and_once(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(url: str, target: str | Path, hash_prefix: str) -> None:
        assert len(hash_prefix) == 64, "a checksum is held against what comes"
        fetched.append(url)
        Path(target).write_bytes(ARCHIVES[name]())

    monkeypatch.setattr(getattr(torchaudio.datasets, name), "download_url_to_file", fetch)
    with pytest.raises(FileNotFoundError):
        find_corpus(name, tmp_path / "data")
    assert not fetched
    place = "-".join(filter(None, (name, CORPORA[name].fetched)))
    plant(tmp_path / "data" / f".{place}.part", ["of_an_attempt_that_was_killed.wav"])
    found = find_corpus(name, tmp_path / "data", download=True)
    assert found
    assert {path.name for path in found} <= {Path(file).name for file in LAYOUTS[name]}
    assert [path.name for path in (tmp_path / "data").iterdir()] == [place]
    assert not list(tmp_path.rglob("of_an_attempt*"))
    assert find_corpus(name, tmp_path / "data", download=True) == found
    assert len(fetched) == 1


def test_a_download_without_torchaudio_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.datasets", None)
    with pytest.raises(ValueError, match=r"`download` needs torchaudio .*: pip install 'wavflow\[data\]'"):
        find_corpus("yesno", tmp_path, download=True)


@pytest.mark.parametrize("fault", [RuntimeError("invalid hash value"), OSError("no route to host")])
def test_a_download_that_fails_leaves_nothing_that_passes_for_a_corpus(
    tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(url: str, target: str | Path, hash_prefix: str) -> None:
        plant(Path(target).parent, LAYOUTS["yesno"])
        raise fault

    monkeypatch.setattr(torchaudio.datasets.yesno, "download_url_to_file", fetch)
    with pytest.raises(OSError, match=f"`download`: yesno could not be fetched .{fault}.: try again"):
        find_corpus("yesno", tmp_path, download=True)
    refused(lambda: find_corpus("yesno", tmp_path), "no file of yesno", FileNotFoundError)
    (tmp_path / "yesno").mkdir()
    refused(lambda: find_corpus("yesno", tmp_path, download=True), "is there, but holds nothing of yesno: remove it")


TABLES = {
    ",": 'path,speaker,text\na.wav,ann,"one, two"\nb/c.wav,bob,\n',
    "|": 'speaker|text|path\nann|"one|a.wav\nbob||b/c.wav\n',
    "\t": "text\tpath\tspeaker\nx, y, z; u\ta.wav\tann\n\tb/c.wav\t bob \n",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=["comma", "bar", "tab"])
def test_a_table_names_files_and_speakers_by_its_columns(tmp_path: Path, table: str) -> None:
    (tmp_path / "list.csv").write_text("\ufeff" + table, encoding="utf-8")
    assert read_table(tmp_path / "list.csv", "x") == {Path("x/a.wav"): "ann", Path("x/b/c.wav"): "bob"}


def test_a_table_may_name_no_speakers_and_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path\n{tmp_path / 'a.wav'}\nb.wav\nb.wav\n")
    assert read_table(tmp_path / "list.csv", "x") == {tmp_path / "a.wav": None, Path("x/b.wav"): None}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"", "must have a column `path`"),
        (b"file,speaker\na.wav,x\n", "must have a column `path`, but .* has file, speaker"),
        (b"path,speaker\n", "must list at least one file"),
        (b"path,speaker\na.wav,x\nb.wav\n", "line 3 of .* lacks a value: {'path': 'b.wav', 'speaker': ''}"),
        (b"path,speaker\n,x\n", "line 2 of .* lacks a value"),
        (b"path,speaker\na.wav,x\na.wav,y\n", "line 3 of .* gives a file a second speaker"),
        (b"path,speaker\n\xff\xfe.wav,x\n", "in UTF-8"),
        (b"path,speaker\na.wav," + 200_000 * b"x", "field larger"),
    ],
)
def test_a_table_that_can_not_be_read_is_refused(tmp_path: Path, table: bytes, words: str) -> None:
    (tmp_path / "list.csv").write_bytes(table)
    with pytest.raises(ValueError, match=words) as error:
        read_table(tmp_path / "list.csv", tmp_path)
    assert str(error.value).startswith("`table`")


def test_data_of_a_table_or_a_corpus_holds_its_files_alone(tmp_path: Path) -> None:
    plant(tmp_path, [f"{i}.wav" for i in range(6)])
    (tmp_path / "list.csv").write_text(
        "path,speaker\n" + "".join(f"{i}.wav,{'ab'[i % 2]}\n" for i in range(1, 5)) + "9.wav,c\n"
    )
    data = AudioDataModule(tiny_mel(), tmp_path, table=tmp_path / "list.csv")
    with pytest.warns(UserWarning, match=r"1 of 5 .*9\.wav"):
        files = [*data.files("train"), *data.files("validation"), *data.files("test")]
    assert sorted(path.name for path in files) == [f"{i}.wav" for i in range(1, 5)]
    assert data.speakers == ["a", "b"], "of the files that can be used"
    assert AudioDataModule(tiny_mel(), tmp_path).speakers == []
    plant(tmp_path, LAYOUTS["vctk"])
    assert AudioDataModule(tiny_mel(), tmp_path, corpus="vctk").speakers == ["p225", "p376", "s5"]
    with pytest.raises(ValueError, match="`table` and `corpus` both name the files"):
        AudioDataModule(tiny_mel(), tmp_path, table="list.csv", corpus="vctk")
    with pytest.raises(FileNotFoundError, match=r"`table` must name a CSV file, but there is no .*none\.csv"):
        AudioDataModule(tiny_mel(), tmp_path, table=tmp_path / "none.csv").setup()


def test_a_corpus_that_is_not_there_ends_the_command_in_one_line(tmp_path: Path) -> None:
    options = ["data=yesno", f"data.path={tmp_path}", f"output={tmp_path / 'run'}", "net.layers=2", "net.channels=4"]
    is_refused(tmp_path, "train", *options, words="`path` must hold the corpus|no file of yesno below|data.download=true")
