"""The listening test without a browser: what the page holds, and what becomes of the results."""

import base64
import csv
import io
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional as F
from commands import contents, is_refused, succeeds
from helpers import refused
from scipy.stats import t as student
from sounds import noise
from torch import Tensor

from wavflow.evaluation.report.listening import LOW_ANCHOR, PEAK, low_pass, match_loudness, write_listening_test
from wavflow.evaluation.report.listening_results import COLUMNS, score
from wavflow.loudness import loudness

RATE = 16000


def sounds(clips: int = 2, systems: tuple[str, ...] = ("recording", "teacher", "student")) -> dict[str, dict[str, Tensor]]:
    return {f"clip {i}": {system: noise(9600) * 0.7**j for j, system in enumerate(systems)} for i in range(clips)}


def page_data(path: Path) -> tuple[dict, dict]:
    """The data of a page and its decoded key."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1])
    return data, json.loads(base64.b64decode(data["key"]))


def write(path: Path, sounds: dict[str, dict[str, Tensor]], sample_rate: int = RATE, title: str = "A test") -> None:
    write_listening_test(path, sounds, sample_rate, [("recording", "teacher"), ("teacher", "student")], title)


def embedded(path: Path, clip: int, system: str) -> np.ndarray:
    data, key = page_data(path)
    place = key["orders"][clip].index(key["systems"].index(system))
    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(data["sounds"][clip][place])))
    assert rate == RATE
    return audio


# ---- the page


def test_loudness_of_a_full_scale_sine_is_what_the_recommendation_says() -> None:
    sine = torch.sin(2 * math.pi * 997 * torch.arange(48000) / 48000)
    assert loudness(sine, 48000) == pytest.approx(-3.01, abs=1e-3)


@pytest.mark.parametrize("gain", [1e-4, 0.3, 0.9])
@pytest.mark.parametrize("seconds", [0.05, 0.4, 0.73])
def test_loudness_follows_the_gain(gain: float, seconds: float) -> None:
    audio = noise(round(seconds * RATE), 0.25)
    assert loudness(gain * audio, RATE) - loudness(audio, RATE) == pytest.approx(20 * math.log10(gain), abs=1e-6)


def test_versions_are_matched_to_the_reference() -> None:
    versions = {"recording": noise(RATE), "loud": noise(RATE, 0.2), "dull": low_pass(noise(RATE, 0.01), RATE)}
    matched = match_loudness(versions, RATE, "clip")
    torch.testing.assert_close(matched["recording"], versions["recording"])
    levels = [F.loudness(audio[None], RATE).item() for audio in matched.values()]
    assert max(levels) - min(levels) < 0.05
    assert levels[0] == pytest.approx(F.loudness(versions["recording"][None], RATE).item())


def test_a_peak_that_would_clip_turns_all_versions_down_alike() -> None:
    spiky = 0.001 * torch.randn(RATE)
    spiky[5000] = 0.5
    matched = match_loudness({"recording": noise(RATE), "spiky": spiky}, RATE, "clip")
    assert matched["spiky"].abs().max().item() == pytest.approx(PEAK)
    levels = [loudness(audio, RATE) for audio in matched.values()]
    assert levels[0] == pytest.approx(levels[1], abs=1e-6)


def test_low_anchor_keeps_the_band_below_3500_hz_and_its_place() -> None:
    time = torch.arange(RATE) / RATE
    for frequency, limits in ((200, (0.988, 1.012)), (3490, (0.988, 1.012)), (4000, (0, 0.056)), (4500, (0, 0.003))):
        tone = torch.sin(2 * math.pi * frequency * time)
        middle = slice(4000, 12000)
        gain = (low_pass(tone, RATE)[middle] @ tone[middle] / (tone[middle] @ tone[middle])).item()
        assert limits[0] - 1e-3 <= gain <= limits[1] + 1e-3, frequency
    assert low_pass(torch.arange(4000).eq(1234).double(), RATE).argmax() == 1234


def test_page_holds_each_sound_level_matched(tmp_path: Path) -> None:
    clips = sounds()
    write(tmp_path / "listen.html", clips)
    assert contents(tmp_path) == {"listen.html"}
    assert page_data(tmp_path / "listen.html")[1]["pairs"] == [[0, 1], [1, 2]]
    for i, row in enumerate(clips.values()):
        recording = row["recording"].numpy()
        np.testing.assert_allclose(embedded(tmp_path / "listen.html", i, "recording"), recording, atol=1 / 32768)
        for system in ("teacher", "student", LOW_ANCHOR):
            audio = torch.from_numpy(embedded(tmp_path / "listen.html", i, system))
            assert loudness(audio, RATE) == pytest.approx(loudness(row["recording"], RATE), abs=0.02)
        teacher = embedded(tmp_path / "listen.html", i, "teacher")
        assert np.corrcoef(teacher, row["teacher"])[0, 1] > 0.999
    write(tmp_path / "low.html", clips, sample_rate=8000)
    assert LOW_ANCHOR not in page_data(tmp_path / "low.html")[1]["systems"], "it would hardly be heard"


def test_page_names_no_system_in_plain_text_and_nothing_elsewhere(tmp_path: Path) -> None:
    zebras = sounds(systems=("recording", "zebra-1", "zebra-2"))
    write_listening_test(tmp_path / "listen.html", zebras, RATE, [("zebra-1", "zebra-2")], "<b>A & B</b>")
    text = (tmp_path / "listen.html").read_text()
    assert "zebra-" not in text  # base64 has no hyphen
    assert "&lt;b&gt;A &amp; B&lt;/b&gt;" in text
    assert not re.search(r"https?:|src=|href=", text)


def test_the_same_sounds_make_the_same_page(tmp_path: Path) -> None:
    pages = []
    for name, clips in zip("abc", (first := sounds(clips=6), first, sounds(clips=6)), strict=True):
        write(tmp_path / name, clips)
        pages.append(page_data(tmp_path / name))
    assert pages[0] == pages[1]
    assert pages[0][0]["page"] != pages[2][0]["page"]
    assert len({tuple(order) for order in pages[0][1]["orders"]}) > 1, "the order must not tell the systems"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": torch.zeros(9600)}, "'teacher' of 'clip 0': `audio` must not be silent"),
        ({LOW_ANCHOR: torch.ones(9600)}, "rename that system"),
    ],
)
def test_what_makes_no_test_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    clips = {clip: row | changes for clip, row in sounds().items()}
    refused(lambda: write(tmp_path / "listen.html", clips), re.escape(words))
    assert not contents(tmp_path)


# ---- the results

BASE = dict.fromkeys(COLUMNS, "") | {"page": "p1", "listener": "ann", "seed": "7", "date": "2026-01-01", "seconds": "9.5"}


def mushra(items: list[dict[str, float]], **session: str) -> list[dict[str, str]]:
    """Lines of a MUSHRA session: per trial system -> rating."""
    rows = []
    for i, item in enumerate(items):
        trial = BASE | {"test": "mushra", "reference": "recording", "trial": str(i + 1), "clip": f"c{i}"}
        rows += [trial | {"system": name, "rating": str(value)} | session for name, value in item.items()]
    return rows


def abx(answers: str, a: str = "recording", b: str = "student", **session: str) -> list[dict[str, str]]:
    """Lines of an ABX session: `answers` holds + for each correct trial and - for each other; A and B change places."""
    rows = []
    for i, sign in enumerate(answers):
        pair = (a, b) if i % 2 else (b, a)
        row = {"a": pair[0], "b": pair[1], "x": "A", "answer": "A" if sign == "+" else "B", "correct": str(int(sign == "+"))}
        rows.append(BASE | {"test": "abx", "trial": str(i + 1), "clip": f"c{i % 3}"} | row | session)
    return rows


def save(path: Path, *sessions: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(itertools.chain(*sessions))
    return path


def test_mushra_averages_listeners_and_not_ratings(tmp_path: Path) -> None:
    # Ben answers one item, Ann three; each counts once.
    ann = mushra([{"recording": 100, "student": value} for value in (10, 20, 60)])
    ben = mushra([{"recording": 95, "student": 50}], listener="ben")
    cid = mushra([{"recording": 96, "student": 62}], listener="cid")
    scores = score([save(tmp_path / "a.csv", ann), save(tmp_path / "b.csv", ben, cid)])
    first, second = scores.mushra
    assert first["system"] == "recording"
    assert first["rating"].mean == pytest.approx(97)
    assert second["rating"].mean == pytest.approx((30 + 50 + 62) / 3)
    deviation = np.std([30, 50, 62], ddof=1)
    assert second["rating"].half_width == pytest.approx(student.ppf(0.975, 2) * deviation / math.sqrt(3))
    assert (second["listeners"], second["ratings"], second["rating"].n) == (3, 5, 3)
    assert scores.abx == []
    assert any("3 of 3 listeners count" in note and "over listeners" in note for note in scores.notes)


def test_mushra_of_one_listener_has_its_interval_over_clips(tmp_path: Path) -> None:
    scores = score([save(tmp_path / "a.csv", mushra([{"recording": 100, "student": v} for v in (10, 20, 60)]))])
    interval = scores.mushra[1]["rating"]
    assert interval.mean == pytest.approx(30)
    assert interval.half_width == pytest.approx(student.ppf(0.975, 2) * np.std([10, 20, 60], ddof=1) / math.sqrt(3))
    assert "over clips" in scores.notes[-1]


@pytest.mark.parametrize(
    ("low", "items", "is_kept"), [(3, 20, True), (4, 20, False), (6, 40, True), (7, 40, False), (1, 6, False)]
)
def test_who_misses_the_hidden_reference_in_more_than_15_percent_is_left_out(
    tmp_path: Path, low: int, items: int, is_kept: bool
) -> None:
    ann = mushra([{"recording": 89.9 if i < low else 90, "student": 20} for i in range(items)])
    ben = mushra([{"recording": 100, "student": 40}], listener="ben")
    scores = score([save(tmp_path / "a.csv", ann, ben)])
    assert {row["system"]: row["rating"].mean for row in scores.mushra}["student"] == pytest.approx(30 if is_kept else 40)
    said = f"left out of MUSHRA: ann rated the hidden reference under 90 in {low} of {items} items"
    assert (said in scores.notes) == (not is_kept)
    assert any(f"{1 + is_kept} of 2 listeners count" in note for note in scores.notes)
    alone = score([save(tmp_path / "ann.csv", ann)])
    assert bool(alone.mushra) == is_kept
    assert f"{int(is_kept)} of 1 listeners count" in alone.notes[-1]


def test_abx_counts_a_pair_whichever_is_a(tmp_path: Path) -> None:
    ann, ben = abx("+++++++++-"), abx("++++++++--", listener="ben")
    other = abx("+-", b="teacher", seed="8")
    rows = score([save(tmp_path / "a.csv", ann, ben, other)]).abx
    assert [row["pair"] for row in rows] == ["recording / student", "recording / teacher"]
    row = rows[0]
    assert (row["listeners"], row["trials"], row["correct"]) == (2, 20, 17)
    assert row["p"] == pytest.approx(sum(math.comb(20, k) for k in (17, 18, 19, 20)) / 2**20)
    # Clopper-Pearson by its definition: at each end, what was seen or more, or less, has 2.5 %.
    tail = sum(math.comb(20, k) * row["low"] ** k * (1 - row["low"]) ** (20 - k) for k in range(17, 21))
    head = sum(math.comb(20, k) * row["high"] ** k * (1 - row["high"]) ** (20 - k) for k in range(18))
    assert (tail, head) == (pytest.approx(0.025, abs=1e-6), pytest.approx(0.025, abs=1e-6))
    assert rows[1]["p"] == pytest.approx(0.75)


def test_a_session_that_comes_again_is_left_out_and_said(tmp_path: Path) -> None:
    first, copy = save(tmp_path / "a.csv", abx("++-")), save(tmp_path / "copy.csv", abx("++-"))
    scores = score([first, copy])
    assert scores.abx[0]["trials"] == 3
    assert f"left out {copy}: {first} holds this session too (abx of ann, seed 7)" in scores.notes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "line 2, holds no answers"),
        (mushra([{"recording": 100, "student": 101}]), "line 3, has a rating of '101'"),
        (mushra([{"recording": 100, "student": -1}]), "line 3, has a rating of '-1'"),
        (mushra([{"recording": 100, "student": math.nan}]), "line 3, has a rating of 'nan'"),
        (mushra([{"recording": 100}], rating="good"), "line 2, has a rating of 'good'"),
        (mushra([{"student": 20}]), "line 2, belongs to a trial without its hidden reference 'recording'"),
        (2 * mushra([{"recording": 100, "student": 20}]), "line 4, repeats trial 1 of 'recording'"),
        (abx("+") + abx("+-"), "line 3, repeats trial 1:"),
        (abx("+", x="C"), "line 2, has x 'C'"),
        (abx("++", correct="0"), "line 2, says correct '0' where x is A and the answer A"),
        (abx("+", test="mos"), "line 2, has the test 'mos'"),
        (abx("+", listener=""), "line 2, has no listener"),
        (abx("+") + abx("+", page="p2", seed="9"), "line 3, is of the page p2, while"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, rows: list[dict[str, str]], words: str) -> None:
    path = save(tmp_path / "bad.csv", rows)
    is_refused(tmp_path, "listen", path, "--output", tmp_path / "out", words=f"bad.csv|{words}")


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    one, other = save(tmp_path / "one.csv", abx("+")), save(tmp_path / "page.csv", abx("+", page="p2"))
    is_refused(tmp_path, "listen", one, other, words="page.csv, line 2, is of the page p2")
    one.write_text(one.read_text()[:-20])
    (tmp_path / "empty.csv").touch()
    (tmp_path / "other.csv").write_text("step,loss\n1,2\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name, words in {
        "one.csv": "one.csv, line 2, has too many cells or too few",
        "empty.csv": "empty.csv, line 1, lacks the column page",
        "other.csv": "other.csv, line 1, lacks the column page",
        "binary.csv": "binary.csv is not",
        "none.csv": "there is no file|none.csv",
    }.items():
        is_refused(tmp_path, "listen", tmp_path / name, words=words)


def test_command_prints_tables_and_writes_them_where_asked(tmp_path: Path) -> None:
    items = [{"recording": 100, "student": 40, LOW_ANCHOR: 20}, {"recording": 98, "student": 50, LOW_ANCHOR: 21}]
    path = save(tmp_path / "a.csv", mushra(items), abx("++++++++++"))
    outcome = succeeds("listen", path)
    printed = re.sub(" +", " ", outcome.out)
    assert "| system | rating | listeners | ratings |" in printed
    assert "| recording / student | 1 | 10 | 10 |" in printed
    assert contents(tmp_path) == {"a.csv"}
    succeeds("listen", path, "--output", tmp_path / "scores")
    assert contents(tmp_path / "scores") == {"scores.json", "scores.png", "mushra.csv", "abx.csv"}
    written = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert [row["system"] for row in written["mushra"]] == ["recording", "student", LOW_ANCHOR]
    assert written["mushra"][1]["rating"]["mean"] == pytest.approx(45)
    assert written["abx"][0]["p"] == pytest.approx(2**-10)
    rows = list(csv.DictReader((tmp_path / "scores" / "mushra.csv").read_text().splitlines()))
    assert float(rows[1]["rating"]) == pytest.approx(45)
