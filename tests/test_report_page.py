"""The report page in a browser: it plays, switches, zooms and sorts, by mouse, keyboard and on a phone, in both themes."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WITHOUT_NAME, tiny_student, tiny_teacher

from wavflow.evaluation import Interval
from wavflow.evaluation.comparison import Metric
from wavflow.evaluation.report.charts import Scatter
from wavflow.evaluation.report.folder import Report, write_report

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow

RATE, SECONDS, HERTZ = 8000, 8.0, 200.0  # a busy machine may take seconds for a click
HOSTILE = '<img src=x onerror="document.title = 1">'
SYSTEMS = ("recording", "twin", "quiet")
# All that would be heard also goes into an analyser, which keeps the last four seconds.
TAP = """
const Real = AudioContext;
window.AudioContext = class extends Real {
    constructor(options) {
        super(options);
        window.tap = new AnalyserNode(this, { fftSize: 32768 });
        window.tap.connect(super.destination);
    }
    get destination() { return window.tap ?? super.destination; }
};
window.heard = () => { const x = new Float32Array(32768); window.tap.getFloatTimeDomainData(x); return [...x]; };
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with three clips of a sine: the recording, the same again, and the same at a tenth of its level."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "metrics.csv").write_text(
        "step,train/loss,validation/loss\n" + "".join(f"{i},{9 - i},{8 - i}\n" for i in range(5))
    )
    sine = 0.4 * torch.sin(2 * math.pi * HERTZ / RATE * torch.arange(int(SECONDS * RATE)))
    clips = ("clip 1", HOSTILE, "clip 3")
    figures = {"level dB": 0.0, "words": "b"}, {"level dB": 10.0, "words": "A"}, {"level dB": -9.5}
    rows = [{"system": name, **row} for name, row in zip(SYSTEMS, figures, strict=True)]
    report = Report(
        title="A report",
        sample_rate=RATE,
        summary=[*rows, {"system": "many", "level dB": Interval(100.0, 2.0, 3), "words": "c"}],
        clips=[{"clip": clip, **row} for clip in clips for row in rows],
        left_out=[{"clip": HOSTILE, "system": "all", "why": "is silent"}],
        notes=["https://example.org is a very long note" + "-and-on" * 40],
        sounds={clip: dict(zip(SYSTEMS, (sine, sine, 0.1 * sine), strict=True)) for clip in clips},
        log_probs={clip: {"teacher": torch.randn(len(sine))} for clip in clips},
        pitch={clip: {name: np.full(250, HERTZ * (1 + i)) for i, name in enumerate(SYSTEMS)} for clip in clips},
        curves={"teacher": folder / "metrics.csv"},
        models={"teacher": tiny_teacher(), "student": tiny_student()},
        tables={"Likelihood": [{"of": HOSTILE, "bits/sample": 9.0}, {"of": "teacher", "bits/sample": Interval(8.0, 0.1, 3)}]},
        scatters=[Scatter("Quality against speed", "speed", "M-STFT", [("a", 1.0, 2.0), ("b", 2.0, 1.5)])],
        legend={"level dB": Metric("high", "how loud")},
    )
    write_report(folder, report)
    return folder / "report.html"


def loaded(page: Any) -> Any:
    until(page, "players.length === 3")
    page.evaluate("Promise.all(players.map((player) => player.deck.load()))")
    return page


def until(page: Any, expression: str) -> None:
    """Waits until a JavaScript expression is true; asked from outside, since the page itself forbids `eval`."""
    for _ in range(500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never true: {expression}")


def clip(page: Any, number: int) -> Any:
    return page.locator(f"#clip-{number}")


def time(page: Any, number: int = 1) -> float:
    return page.evaluate(f"players[{number - 1}].deck.time")


def test_every_player_plays_and_switches_at_the_same_position(visit: Callable[..., Any], path: Path) -> None:
    page = loaded(visit(path))
    for number in (1, 2, 3):
        article = clip(page, number)
        article.locator(".play").click()
        until(page, f"players[{number - 1}].deck.time > .2")
        assert page.evaluate("players.map((p) => p.deck.playing)") == [n == number for n in (1, 2, 3)], "one at a time"
        for name in ("quiet", "twin"):
            before = time(page, number)
            article.locator(".versions button", has_text=name).click()
            assert article.locator('.versions [aria-pressed="true"]').inner_text().endswith(name)
            assert 0 <= time(page, number) - before < 10, "goes on from where it was"
            assert article.locator(".lane.mel .selected").inner_text() == name
            figure = article.locator(f'figure[data-name="{name}"]')
            for kind in ("mel", "difference"):
                shown = article.locator(f".lane.{kind} image").get_attribute("href")
                assert shown == figure.locator(f"img.{kind}").get_attribute("src")
        assert article.locator(".play").inner_text() == "Pause"
    article.locator(".play").click()
    position = time(page, 3)
    page.wait_for_timeout(100)
    assert time(page, 3) == position, "paused"
    page.evaluate("players[2].deck.seek(7.8); players[2].deck.play()")
    until(page, "!players[2].deck.playing && players[2].deck.time === players[2].deck.duration")


def test_switching_between_like_versions_cannot_be_heard(visit: Callable[..., Any], path: Path) -> None:
    page = loaded(visit(path, script=TAP))
    assert page.evaluate("players[0].deck.buffers.recording.length") == SECONDS * RATE, "not resampled"
    page.evaluate("players[0].deck.loop(0, 3); players[0].deck.play()")  # 600 periods: its seam is none
    for name in ("twin", "recording", "twin", "recording"):
        page.wait_for_timeout(150)
        page.evaluate(f"players[0].deck.select({name!r})")
    page.wait_for_timeout(150)
    heard = np.array(page.evaluate("heard()"))
    sounding = heard[np.flatnonzero(heard)[0] + 100 :]
    assert len(sounding) > 0.5 * RATE
    # x[n + 1] + x[n - 1] = 2 cos(w) x[n] for a sine: any gap, jump, or slip of a sample breaks it.
    residual = sounding[2:] + sounding[:-2] - 2 * math.cos(2 * math.pi * HERTZ / RATE) * sounding[1:-1]
    assert np.abs(residual).max() < 2e-4, "16 bits, and no more"
    assert np.abs(sounding).max() == pytest.approx(0.4, abs=0.001)
    page.evaluate("players[0].deck.select('quiet')")
    page.wait_for_timeout(200)
    quiet = np.array(page.evaluate("heard()"))[-400:]
    assert np.abs(quiet).max() == pytest.approx(0.04, abs=0.002), "the others are silent"


def test_keys_do_what_the_page_says(visit: Callable[..., Any], path: Path) -> None:
    page = loaded(visit(path))
    press = page.keyboard.press
    press("3")
    assert page.evaluate("players[0].deck.selected") == "quiet"
    press("ArrowRight")
    assert time(page) == 1.0
    press("Shift+ArrowLeft")
    assert time(page) == pytest.approx(0.9)
    press("+")
    press("l")
    view = page.evaluate("players[0].view")
    assert view["end"] - view["start"] == pytest.approx(SECONDS / 2)
    assert view["start"] < 0.9 < view["end"]
    assert clip(page, 1).locator(".loop").get_attribute("aria-pressed") == "true"
    press("l")
    press("0")
    assert page.evaluate("players[0].view") == {"start": 0, "end": SECONDS}
    press(" ")
    until(page, "players[0].deck.playing")
    press("j")
    until(page, "players[1].deck.playing && !players[0].deck.playing")
    assert page.evaluate("players[1].deck.selected") == "quiet", "the same version of the next clip"
    assert "active" in clip(page, 2).get_attribute("class")
    press(" ")
    until(page, "!players[1].deck.playing")
    press("k")
    assert "active" in clip(page, 1).get_attribute("class")
    # A clicked button gives the space bar back; a focused one keeps it.
    clip(page, 1).locator(".versions button").nth(1).click()
    press(" ")
    until(page, "players[0].deck.playing && players[0].deck.selected === 'twin'")
    clip(page, 1).locator(".versions button").nth(0).focus()
    press(" ")
    assert page.evaluate("[players[0].deck.playing, players[0].deck.selected]") == [True, "recording"]
    page.locator("#keys").uncheck()
    press("2")
    assert page.evaluate("players[0].deck.selected") == "recording", "keys can be turned off"


def test_loop_stays_within_the_view(visit: Callable[..., Any], path: Path) -> None:
    page = loaded(visit(path))
    page.evaluate("players[0].setView(1, 1.2); players[0].loop(); players[0].deck.seek(1.1); players[0].deck.play()")
    times = []
    for _ in range(12):
        page.wait_for_timeout(50)
        times.append(time(page))
    assert all(1.0 <= t <= 1.2 for t in times)
    assert any(b < a for a, b in itertools.pairwise(times)), "came round"


def test_pictures_zoom_together_and_take_clicks(visit: Callable[..., Any], path: Path) -> None:
    page = loaded(visit(path))
    article = clip(page, 1)
    article.scroll_into_view_if_needed()
    until(page, "document.querySelector('#clip-1 canvas').width > 300")
    pixels = "[...document.querySelectorAll('#clip-1 canvas')].map((canvas) => canvas.toDataURL())"
    whole = page.evaluate(pixels)
    assert len({*whole}) == 2, "the waveform, and the log-likelihood of each sample"
    box = article.locator(".lane.mel .plot").bounding_box()
    article.locator(".lane.mel .plot").click(position={"x": box["width"] / 3, "y": 20})
    assert time(page) == pytest.approx(SECONDS / 3, abs=SECONDS / 200)
    assert article.locator(".lane.pitch .head").get_attribute("style") == article.locator(".lane.mel .head").get_attribute(
        "style"
    )
    for _ in range(3):
        article.locator('[data-zoom="in"]').click()
    boxes = {svg.get_attribute("viewBox") for svg in article.locator(".lane svg").all()}
    assert len(boxes) == 1
    start, _, width, _ = map(float, boxes.pop().split())
    assert width == pytest.approx(SECONDS / 8)
    assert start < SECONDS / 3 < start + width
    assert not {*page.evaluate(pixels)} & {*whole}
    page.mouse.move(box["x"] + 200, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 20, steps=4)
    page.mouse.up()
    moved = page.evaluate("players[0].view.start")
    assert moved - start == pytest.approx(100 / box["width"] * SECONDS / 8, abs=SECONDS / 500), "dragged to the left"
    assert time(page) == pytest.approx(SECONDS / 3, abs=SECONDS / 200), "and not clicked"
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    until(page, f"players[0].view.end - players[0].view.start < {SECONDS / 8 * 0.9}")
    article.locator(".versions button", has_text="twin").click()
    assert article.locator(".pitch .other:not(.off)").get_attribute("data-name") == "twin"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_begins_with_the_players_and_has_no_hole(visit: Callable[..., Any], path: Path, width: int) -> None:
    page = loaded(visit(path, width=width))
    assert clip(page, 1).locator(".play").bounding_box()["y"] < 600
    lane = clip(page, 1).locator(".lane.difference")
    assert lane.get_by_text("Choose another version").is_visible(), "the recording does not differ from itself"
    height = clip(page, 1).bounding_box()["height"]
    clip(page, 1).locator(".versions button", has_text="quiet").click()
    assert not lane.get_by_text("Choose another version").is_visible()
    assert clip(page, 1).bounding_box()["height"] == pytest.approx(height, abs=1), "nothing jumps"
    page.get_by_role("link", name="Systems").click()
    page.wait_for_timeout(1000)
    assert page.get_by_role("heading", name="Systems").bounding_box()["y"] < 100


def test_tables_sort_by_click_and_keyboard(visit: Callable[..., Any], path: Path) -> None:
    page = visit(path)
    table = page.locator("#section-1 table").first

    def systems() -> list[str]:
        return table.locator("tbody th").all_inner_texts()

    original = systems()
    head = table.locator("thead th").nth(1)
    head.locator("button").click()
    assert systems() == ["quiet", "recording", "twin", "many"], "by number, not by text"
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert systems() == ["many", "twin", "recording", "quiet"]
    assert head.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert systems() == original
    assert head.get_attribute("aria-sort") is None
    table.locator("thead th").nth(0).locator("button").click()
    assert systems() == sorted(original)
    assert table.locator("[aria-sort]").count() == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_and_every_control_has_a_name(visit: Callable[..., Any], path: Path, width: int) -> None:
    page = loaded(visit(path, width=width))
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(WITHOUT_NAME) == []
    names = clip(page, 1).get_by_role("button").all()
    assert len(names) >= 4 + len(SYSTEMS)
    assert page.get_by_role("slider", name=f"Position in {HOSTILE}").count() == 1
    assert page.title() == "A report"


# Every text against what lies behind it, half-transparent layers mixed, as WCAG 2.2 defines contrast.
CONTRASTS = """() => {
    const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const pen = pixel.getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        const layers = [];
        for (; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor));
        return layers.reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    return [...document.querySelectorAll("body *")]
        .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
        .map((e) => {
            const style = getComputedStyle(e), back = behind(e);
            const ink = rgba(e.closest("svg") ? style.fill : style.color);
            const [a, b] = [light(over(ink, back)), light(back)];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), `${e.tagName} ${e.className}: ${e.textContent}`];
        });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(visit: Callable[..., Any], path: Path, scheme: str) -> None:
    page = loaded(visit(path, color_scheme=scheme, reduced_motion="reduce"))
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert [entry for entry in found if entry[0] < 4.5] == []
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert [entry for entry in page.evaluate(CONTRASTS) if entry[0] < 4.5] == []
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before, "the choice is remembered"


def test_without_script_everything_is_there(visit: Callable[..., Any], path: Path) -> None:
    page = visit(path, java_script_enabled=False)
    for player in page.locator("audio").all():
        assert player.is_visible()
    assert page.locator("audio").count() == 9
    assert page.locator("figure img").count() == 3 * 5
    assert all(picture.is_visible() for picture in page.locator("figure img").all())
    assert not page.locator("#theme").is_visible(), "no button that does nothing"
    assert page.locator("#section-1 table").is_visible()
