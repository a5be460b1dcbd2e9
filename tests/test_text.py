"""From text to symbols: numbers, phones, characters; where the texts of a corpus are."""

import shutil
from pathlib import Path

import pytest
from helpers import refused

from wavflow.data.texts import find_texts
from wavflow.text import PAUSES, plain, sentences, symbols_of

pytest.importorskip("inflect")
pytest.importorskip("misaki")
from wavflow.text.english import pronounce
from wavflow.text.numbers import spelled_out


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("In 1998", "In nineteen ninety-eight"),
        ("in 1905, 1900, 2004 and 2021", "in nineteen oh five, nineteen hundred, two thousand four and twenty twenty-one"),
        ("the 1980s", "the nineteen eighties"),
        ("$5.50", "five dollars and fifty cents"),
        ("$1", "one dollar"),
        ("$0.05", "five cents"),
        ("£1,000,000", "one million pounds"),
        ("$1.5 million", "one point five million dollars"),
        ("5:30 p.m.", "five thirty P M"),
        ("7:00", "seven o'clock"),
        ("3:05", "three oh five"),
        ("January 5, 1999", "January fifth, nineteen ninety-nine"),
        ("12 May", "twelfth of May"),
        ("21st", "twenty-first"),
        ("3/4 and 1/2", "three quarters and one half"),
        ("-3.14", "minus three point one four"),
        ("1,234", "one thousand two hundred thirty-four"),
        ("007", "zero zero seven"),
        ("555-1234", "five five five one two three four"),
        ("5-10", "five to ten"),
        ("Dr. Smith and Mrs. Jones", "doctor Smith and missis Jones"),
        ("5 kg", "five kilograms"),
    ],
)
def test_numbers_are_spelled_out(written: str, said: str) -> None:
    assert spelled_out(written) == said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("world", "wˈɜɹld"),
        ("obeyed", "əbˈAd"),
        ("released", "ɹəlˈist"),
        ("washed", "wˈɔʃt"),
        ("processes", "pɹˈɑsˌɛsᵻz"),
        ("dogs", "dˈɔɡz"),
        ("life's", "lˈIfs"),
        ("FBI", "ˈɛfbˈiˈI"),
    ],
)
def test_words_are_pronounced_by_lexicon_and_endings(word: str, said: str) -> None:
    assert pronounce(word) == said


@pytest.mark.parametrize("word", ["Whittemore", "xyzzyq", "Grüß", "naïveté", "Łódź", "b", "QQQQQQ"])
def test_every_word_is_read_somehow(word: str) -> None:
    assert isinstance(pronounce(word), str)


def test_weak_words_and_the_before_vowels() -> None:
    assert "".join(symbols_of("The apple, the pear, a fig", "phones")) == " ði ˈæpᵊl,ðə pˈɛɹ,ə fˈɪɡ."


@pytest.mark.parametrize("alphabet", ["phones", "characters"])
@pytest.mark.parametrize("text", ["", "  ", "\n", "\u200b"])
def test_an_empty_text_has_no_symbols(text: str, alphabet: str) -> None:
    assert symbols_of(text, alphabet) == []


def test_a_vowel_and_its_stress_are_one_symbol() -> None:
    symbols = symbols_of("printing", "phones")
    assert symbols == [" ", "p", "ɹ", "ˈɪ", "n", "t", "ɪ", "ŋ", "."]


def test_characters_are_the_text_itself_in_any_language() -> None:
    assert "".join(symbols_of("Grüß dich — “Ž”!", "characters")) == ' grüss dich, "ž"!'


def test_quotes_dashes_and_spaces_become_plain() -> None:
    assert plain("“It’s”\u00a0(so) …  he said—well") == '"It\'s", so, he said, well'


def test_unknown_alphabets_are_named() -> None:
    refused(lambda: symbols_of("a", "runes"), "`alphabet` must be phones")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_reads_other_languages() -> None:
    symbols = symbols_of("Guten Tag, die Welt.", "espeak:de")
    assert symbols[0] == " "
    assert symbols[-1] == "."
    assert "," in symbols
    assert any("ɑː" in symbol for symbol in symbols)
    refused(lambda: symbols_of("a", "espeak:nowhere"), "nowhere")


def test_without_espeak_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    refused(lambda: symbols_of("a", "espeak:de"), "install it, or take phones")


def test_long_texts_are_split_at_sentences_and_nothing_is_lost() -> None:
    text = "Hello there. " + "A very long sentence, with pauses and no end " * 30 + "!\n\nNext? " + "x" * 500 + " 10,000 words."
    parts = sentences(text)
    assert parts[0] == "Hello there."
    assert max(map(len, parts)) <= 200
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert sentences("... ?!") == []


def test_ten_thousand_characters_are_read() -> None:
    text = "The quick brown fox, 12 years old, jumps. " * 240
    symbols = symbols_of(text, "phones")
    assert symbols.count(".") == 240
    assert set(symbols) & set(PAUSES) == {",", "."}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [tmp_path / "wavs" / f"{name}.wav" for name in ("a", "b")]


def test_texts_of_ljspeech(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "metadata.csv").write_text("a|Dr. A|Doctor A\nb|B|\n", encoding="utf-8")
    assert find_texts(files, tmp_path) == {files[0]: "Doctor A"}


def test_texts_of_a_list_with_a_header(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "metadata.csv").write_text('id|text|path\na|"Yes", he said.|x/y.wav\nb||z\n', encoding="utf-8")
    assert find_texts(files, tmp_path) == {files[0]: '"Yes", he said.'}


def test_texts_of_a_table(tmp_path: Path, files: list[Path]) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,text\nwavs/a.wav,One\nwavs/b.wav,Two\n", encoding="utf-8")
    assert find_texts(files, tmp_path, table) == {files[0]: "One", files[1]: "Two"}


def test_texts_beside_the_files_and_of_cmu_arctic(tmp_path: Path, files: list[Path]) -> None:
    files[0].parent.mkdir()
    files[0].with_suffix(".normalized.txt").write_text("One\n")
    (tmp_path / "txt.done.data").write_text('( b "Two, too." )\n')
    assert find_texts(files, tmp_path) == {files[0]: "One", files[1]: "Two, too."}


def test_no_text_at_all_is_an_error(tmp_path: Path, files: list[Path]) -> None:
    refused(lambda: find_texts(files, tmp_path), "none of the 2 files below .* has a text")
