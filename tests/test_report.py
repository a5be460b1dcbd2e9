"""The report folder: its tables and files; what a browser makes of the page is in test_report_page.py."""

import base64
import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import tiny_teacher

import wavflow
from wavflow.evaluation import Interval, markdown_table
from wavflow.evaluation.comparison import Metric
from wavflow.evaluation.report.charts import Scatter
from wavflow.evaluation.report.folder import Report, write_report
from wavflow.evaluation.report.page import render_page
from wavflow.reporting import tables
from wavflow.reporting.tables import csv_table, html_table, text_table

# Tables ---------------------------------------------------------------------------------------------------------------

ROWS = [
    {"system": "teacher | EMA", "bits": 8.25, "level": np.float64(-0.0321), "F1": Interval(0.95678, 0.0123, 5)},
    {"system": "student", "bits": math.nan, "F1": Interval(0.5, math.nan, 1), "clips": 1234, "speed": 133.42},
    {"system": "tiny", "bits": 1e-5, "level": None, "F1": Interval(math.nan, math.nan, 0), "clips": np.int64(0)},
]


def test_markdown_table() -> None:
    assert markdown_table(ROWS).splitlines() == [
        "| system         |     bits |   level |            F1 |   clips |   speed |",
        "|:---------------|---------:|--------:|--------------:|--------:|--------:|",
        "| teacher \\| EMA |    8.250 | -0.0321 | 0.957 ± 0.012 |       – |       – |",
        "| student        |        – |       – |         0.500 |    1234 |   133.4 |",
        "| tiny           | 1.00e-05 |       – |             – |       0 |       – |",
    ]
    assert markdown_table([]) == ""
    assert markdown_table([{"ok": np.bool_(True)}]) == "| ok   |\n|:-----|\n| yes  |\n"
    assert markdown_table(ROWS[:1], ["bits"]) == "|   bits |\n|-------:|\n|  8.250 |\n"


def test_text_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WIDTH", 40)
    rows = [{"system": "x" * 90 + "name", "F1": Interval(0.5, 0.1, 3), "bits": 8.25}, {"system": "b", "bits": math.nan}]
    assert text_table(rows, {"system": "system", "bits": "bits", "F1": "voicing F1"}).splitlines() == [
        "system                  bits  voicing F1",
        "…xxxxxxxxxxxxxxxxname  8.250       0.500",
        "b                          –           –",
    ]
    assert text_table(rows[1:], {"system": "system", "bits": "bits"}) == "system  bits\nb          –\n"


def test_csv_table_keeps_full_precision() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(ROWS))))

    assert rows[0] == {
        **{"system": "teacher | EMA", "bits": "8.25", "level": "-0.0321", "F1": "0.95678", "F1 ±": "0.0123"},
        **{"clips": "", "speed": ""},
    }
    assert (rows[1]["F1"], rows[1]["F1 ±"], rows[1]["clips"]) == ("0.5", "", "1234")
    assert csv_table([]) == "\n"


@pytest.mark.parametrize(
    ("better", "values", "best"),
    [
        ("low", [0.0, 3.0, 2.0, math.nan], [2]),
        ("high", [9.0, 3.0, 2.0, None], [1]),
        ("zero", [0.0, -0.9, 0.3, 5.0], [2]),
        ("low", [0.0, 2.00001, 2.0, 3.0], [1, 2]),  # what reads alike is alike
        ("low", [0.0, 2.0, 2.0, 2.0], []),
        ("low", [0.0, 2.0, None, None], []),
        ("low", [Interval(0.0, 0.0, 3), Interval(2.0, 0.4, 3), Interval(3.0, 0.5, 3)], [1]),
        ("low", [Interval(0.0, 0.0, 3), Interval(2.0, 0.6, 3), Interval(3.0, 0.5, 3)], []),
        ("high", [Interval(0.0, 0.0, 3), Interval(2.0, 0.6, 3), Interval(3.0, 0.5, 3), Interval(9.0, 0.1, 3)], [3]),
        ("zero", [Interval(0.0, 0.0, 3), Interval(0.44, 4.2, 3), Interval(-1.5, 0.2, 3)], []),
        ("low", [0.0, Interval(2.0, math.nan, 1), Interval(3.0, math.nan, 1)], []),  # one clip tells no difference
    ],
)
def test_the_best_of_a_column_is_marked_and_the_recording_is_not(better: str, values: list, best: list[int]) -> None:
    rows = [{"system": f"s{i}", "metric": value} for i, value in enumerate(values)]
    page = html_table(rows, {"metric": better}, "s0")

    lines = re.findall(r"<tr><th scope=\"row\".*?</tr>", page)
    assert [i for i, line in enumerate(lines) if "<strong>" in line] == best
    assert ("is better" in page) == (better in ("low", "high"))


def test_html_table_says_what_it_is_sorted_by() -> None:
    page = html_table(ROWS)

    assert 'data-value="8.25"' in page
    assert 'data-value="0.95678">0.957 <span class="spread">± 0.012</span></td>' in page
    assert page.count("data-value") == 8, "what is missing has none"


# Files ----------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects the elements of a page and checks that its tags are balanced."""

    VOID = ("meta", "img", "input", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


HOSTILE = '../<img src=x onerror="alert(1)">&amp;\' "$title"'


def hostile_report() -> Report:
    sounds = {name: {HOSTILE: 0.1 * torch.randn(4000), "a b": 0.1 * torch.randn(3990)} for name in (HOSTILE, "x/y", "x y")}
    return Report(
        title=HOSTILE,
        sample_rate=8000,
        summary=[{"system": HOSTILE, "KL": math.nan}, {"system": "a b", "KL": Interval(0.13, 0.02, 4), HOSTILE: 1.0}],
        tables={HOSTILE: [{HOSTILE: HOSTILE, "bits/sample": 8.0}]},
        clips=[{"clip": HOSTILE, "system": HOSTILE, "level dB": np.float32(0.5)}],
        left_out=[{"clip": HOSTILE, "system": "all", "why": HOSTILE}],
        notes=[HOSTILE],
        sounds=sounds,
        log_probs={HOSTILE: {HOSTILE: torch.randn(4000)}},
        pitch={HOSTILE: {HOSTILE: np.full(20, 150.0)}},
        models={HOSTILE: tiny_teacher()},
        scatters=[Scatter(HOSTILE, HOSTILE, HOSTILE, [(HOSTILE, 1.0, 2.0)])],
        legend={HOSTILE: Metric("low", HOSTILE)},
        links={HOSTILE: "../other/report.html"},
    )


def test_report_is_whole_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    report = hostile_report()
    write_report(tmp_path / "report", report)
    folder = tmp_path / "report"

    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count(HOSTILE) >= 12
    links = [a[name] for _, a in page.elements for name in ("src", "href") if a.get(name)]
    assert links
    assert {link for link in links if not link.startswith(("data:", "#"))} == {"../other/report.html"}
    assert f"See also: {HOSTILE}" in page.text
    assert "default-src 'none'" in page.all("meta")[2]["content"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)

    wavs = sorted(path.name for path in (folder / "clips").iterdir())
    assert len(wavs) == 6
    assert all(re.fullmatch(r"[\w.-]+\.wav", name) for name in wavs)
    assert {"x-y-a-b.wav", "x-y-a-b-2.wav"} <= set(wavs), "no name twice"
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        *wavs,
        *("report.html", "report.md", "figures.json", "summary.csv", "clips.csv"),
    }
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert figures["summary"][0] == {"system": HOSTILE, "KL": None}
    assert figures["summary"][1]["KL"] == {"mean": 0.13, "half_width": 0.02, "n": 4}
    assert figures["models"][HOSTILE]["_target_"] == "wavflow.models.teacher"
    assert figures["left_out"] == report.left_out
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "(clips/x-y-a-b.wav)" in text
    assert "0.130 ± 0.020" in text


def test_page_plays_what_the_wav_files_hold(tmp_path: Path) -> None:
    write_report(tmp_path, hostile_report())
    players = Page((tmp_path / "report.html").read_text(encoding="utf-8")).all("audio")

    assert [player["aria-label"] for player in players[:2]] == [f"{HOSTILE}, {HOSTILE}", f"{HOSTILE}, a b"]
    played = [
        soundfile.read(io.BytesIO(base64.b64decode(player["src"].removeprefix("data:audio/flac;base64,"))), dtype="int16")
        for player in players
    ]
    written = [soundfile.read(path, dtype="int16") for path in (tmp_path / "clips").iterdir()]
    assert len(played) == len(written) == 6
    assert sorted((rate, samples.tobytes()) for samples, rate in played) == sorted(
        (rate, samples.tobytes()) for samples, rate in written
    )


def test_sounds_that_cannot_be_played_are_skipped(tmp_path: Path) -> None:
    good, bad = 0.1 * torch.randn(900), torch.full((900,), math.nan)
    sounds = {"a": {"recording": good, "x": bad, "y": good[:1]}, "b": {"recording": bad, "x": good}, "c": {"r": good[:0]}}
    write_report(tmp_path, Report("r", 8000, sounds=sounds))

    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a-recording.wav", "a-y.wav"]
    assert len(Page((tmp_path / "report.html").read_text(encoding="utf-8")).all("audio")) == 2


def test_sounds_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path) -> None:
    sounds = {name: {"recording": 0.1 * torch.randn(900), "x": 0.1 * torch.randn(900)} for name in "ab"}
    write_report(tmp_path, Report("two clips", 8000, sounds=sounds))
    (tmp_path / "clips" / "mine.wav").touch()
    write_report(tmp_path, Report("one clip", 8000, sounds={"a": {"recording": sounds["a"]["recording"]}}))
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {"a-recording.wav", "mine.wav"}

    (tmp_path / "other.wav").touch()
    for listed in ({"a": {"x": "clips/../other.wav", "y": "other.wav"}}, {"a": {"x": ["clips"]}}, ["a"], None):
        (tmp_path / "figures.json").write_text(json.dumps({"sounds": listed}))
        write_report(tmp_path, Report("none", 8000))
        assert (tmp_path / "other.wav").exists()


def test_names_that_are_not_utf8_and_long_ones_are_written(tmp_path: Path) -> None:
    name = "lat\udce9in"  # what Python makes of the Latin-1 bytes of "latéin"
    sounds = {clip: {"recording": 0.1 * torch.randn(900)} for clip in (name, "発" * 200)}
    rows = [{"system": name, "why": name}]
    report = Report(name, 8000, rows, {name: rows}, rows, rows, [name], sounds=sounds, links={name: "x"})
    write_report(tmp_path, report)

    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["lat-in-recording.wav", "発" * 50 + ".wav"]
    assert "lat\\udce9in" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["title"] == name


def test_a_report_of_little_is_little() -> None:
    page = Page(render_page(Report("Two folders", 8000, summary=[{"system": "a", "x": 1.0}])))
    assert [text.strip() for text in page.text.split("\n") if "Listen and look" in text] == []
    assert not page.all("audio")
    assert page.text.count("Systems") == 1


def test_eight_clips_of_seven_systems_fit_into_12_megabytes() -> None:
    path = sorted(Path(wavflow.__file__).parent.glob("assets/**/*.flac"))[0]
    audio, sample_rate = wavflow.read_audio(path, 22050)
    speech = audio[: 4 * sample_rate]
    systems = {"recording": speech, "louder": 1.1 * speech, "noisy": speech + 0.003 * torch.randn(len(speech))}
    sizes = [
        len(render_page(Report("size", sample_rate, sounds={"clip": dict(list(systems.items())[:n])}))) for n in range(1, 4)
    ]
    each, empty = (sizes[2] - sizes[0]) / 2, sizes[0] - (sizes[1] - sizes[0])
    assert (empty + 56 * each) * 4.0 / (len(speech) / sample_rate) < 12e6
