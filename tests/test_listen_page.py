"""The listening test in a browser: sessions are clicked through, and their files read back."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import WITHOUT_NAME

from wavflow.evaluation.report.listening import LOW_ANCHOR, write_listening_test
from wavflow.evaluation.report.listening_results import COLUMNS, score

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow

SYSTEMS = ("recording", "zebra", "yak")
SEED = 5
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with two clips of .2 s, so that .1 s of listening is enough, and ten trials of one pair."""
    torch.manual_seed(0)
    clips = {f"clip, {i}": {name: 0.1 * torch.randn(3200).clamp(-3, 3) for name in SYSTEMS} for i in range(2)}
    path = tmp_path_factory.mktemp("page") / "listen.html"
    write_listening_test(path, clips, 16000, [("recording", "zebra")])
    return path


def hear(page: Any, name: str, by: Callable[[], None]) -> None:
    by()
    page.wait_for_selector(f'[data-sound="{name}"][data-heard]')


def saved(page: Any, folder: Path) -> tuple[Path, list[dict[str, str]]]:
    """Saves the results at the end of a session; returns the file and its rows."""
    with page.expect_download() as download:
        page.click("#save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    with path.open(newline="") as file:
        return path, list(csv.DictReader(file))


def is_blind(page: Any) -> bool:
    text = page.inner_text("body").lower()
    return not any(name in text for name in (*SYSTEMS, LOW_ANCHOR, "clip,"))


def test_abx_session_of_ten_trials_comes_back_as_scores(visit: Callable[..., Any], path: Path, tmp_path: Path) -> None:
    page = visit(path, query=f"?seed={SEED}")
    page.fill("#listener", 'Ann "A", 1')
    page.click("#start-abx")
    plan = page.evaluate(f"plan('abx', {SEED})")
    wrong = {2, 7}
    for i, trial in enumerate(plan):
        if i == 4:  # a reload in the middle of a trial loses nothing
            hear(page, "A", lambda: page.keyboard.press("a"))
            page.keyboard.press("2")
            page.reload()
            assert "ABX: 4 of 10 are done." in page.inner_text("#resume")
            page.click("#resume-go")
            page.wait_for_selector('[data-sound="A"][data-heard]')
            assert page.is_checked('[name="answer"][value="B"]')
        assert page.inner_text("#progress-text") == f"Trial {i + 1} of 10"
        assert is_blind(page)
        by_keyboard = i % 2
        answer = trial["x"] if i not in wrong else "AB"[trial["x"] == "A"]
        for name in "ABX":
            assert not page.is_enabled("#next"), "not before all was heard"
            act = (
                (lambda n=name: page.keyboard.press(n.lower()))
                if by_keyboard
                else (lambda n=name: page.click(f'[data-sound="{n}"]'))
            )
            hear(page, name, act)
        if by_keyboard:
            page.keyboard.press("1" if answer == "A" else "2")
            page.keyboard.press("Enter")
        else:
            page.check(f'[name="answer"][value="{answer}"]')
            page.click("#next")
    assert "8 of 10" in page.inner_text("#result-body")
    assert "0.055" in page.inner_text("#result-body")
    file, rows = saved(page, tmp_path)
    assert file.name == f"listen-abx-Ann_A_1-{SEED}.csv"
    assert tuple(rows[0]) == COLUMNS
    assert [row["correct"] for row in rows] == [str(int(i not in wrong)) for i in range(10)]
    assert [row["x"] for row in rows] == [trial["x"] for trial in plan]
    assert {row["listener"] for row in rows} == {'Ann "A", 1'}
    assert {row["clip"] for row in rows} == {"clip, 0", "clip, 1"}
    assert all({row["a"], row["b"]} == {"recording", "zebra"} and float(row["seconds"]) > 0.2 for row in rows)
    (pair,) = score([file]).abx
    assert (pair["pair"], pair["trials"], pair["correct"]) == ("recording / zebra", 10, 8)
    assert pair["p"] == pytest.approx(56 / 1024)
    page.reload()
    assert page.is_visible("#start-abx"), "what was saved is not kept"


def test_mushra_session_comes_back_as_scores(visit: Callable[..., Any], path: Path, tmp_path: Path) -> None:
    page = visit(path, query=f"?seed={SEED}")
    page.click("#start-mushra")
    names = [*SYSTEMS, LOW_ANCHOR]  # as the page counts them
    given = {"recording": 100, "zebra": 51, "yak": 25, LOW_ANCHOR: 0}
    for i, trial in enumerate(page.evaluate(f"plan('mushra', {SEED})")):
        assert page.inner_text("#progress-text") == f"Screen {i + 1} of 2"
        assert is_blind(page)
        hear(page, "Reference", lambda: page.keyboard.press("r"))
        for place, system in enumerate(trial["order"], start=1):
            hear(page, f"Sound {place}", lambda place=place: page.keyboard.press(str(place)))
            page.keyboard.press("Enter")
            assert not page.is_enabled("#next"), "not before all was heard and rated"
            slider = page.locator(f"#rating-{place}")
            assert slider.get_attribute("aria-valuetext") == "not rated yet"
            match given[names[system]]:
                case 100:
                    page.keyboard.press("End")
                case 0:
                    page.keyboard.press("Home")
                case 51:
                    page.keyboard.press("ArrowRight")
                case 25:
                    box = slider.bounding_box()
                    slider.click(position={"x": 8 + (box["width"] - 16) / 4, "y": box["height"] / 2})
            assert slider.get_attribute("aria-valuetext").startswith(f"{given[names[system]]}, ")
        page.keyboard.press("Enter")
    assert page.inner_text("#result-body tr:first-child") == "recording\t100.0\t2"
    file, rows = saved(page, tmp_path)
    assert len(rows) == 8
    assert {row["reference"] for row in rows} == {"recording"}
    assert len(rows[0]["listener"]) == 8, "who gives no name gets one"
    scores = score([file])
    assert {row["system"]: row["rating"].mean for row in scores.mushra} == given
    assert all(row["ratings"] == 2 for row in scores.mushra)


def test_the_reference_is_what_is_hidden_and_x_is_a_or_b(visit: Callable[..., Any], path: Path) -> None:
    page = visit(path)
    for trial in page.evaluate("plan('mushra', 1)"):
        sounds = page.evaluate("(trial) => stimuli(trial)", trial)
        assert sounds["Reference"] == sounds[f"Sound {trial['order'].index(0) + 1}"]
        assert len(set(sounds.values())) == 4
    seen = set()
    for trial in page.evaluate("plan('abx', 1)"):
        sounds = page.evaluate("(trial) => stimuli(trial)", trial)
        assert sounds["X"] == sounds[trial["x"]] != sounds["AB"[trial["x"] == "A"]]
        seen.add((trial["a"], trial["x"]))
    assert seen == {(a, x) for a in (0, 1) for x in "AB"}


def test_order_is_that_of_the_seed_and_fair(visit: Callable[..., Any], path: Path) -> None:
    page = visit(path)
    assert page.evaluate("JSON.stringify(plan('abx', 9)) === JSON.stringify(plan('abx', 9))")
    # X over neighboring seeds: 2000 throws of a coin; five standard deviations are 112.
    heads = page.evaluate("[...Array(200).keys()].flatMap((seed) => plan('abx', seed)).filter((t) => t.x === 'A').length")
    assert abs(heads - 1000) < 5 * math.sqrt(500)
    firsts = page.evaluate("[...Array(2000).keys()].map((seed) => plan('mushra', seed)[0].order[0])")
    assert all(abs(firsts.count(system) - 500) < 5 * math.sqrt(375) for system in range(4))


def test_chance_is_exact(visit: Callable[..., Any], path: Path) -> None:
    page = visit(path)
    for correct, n in ((0, 1), (10, 10), (9, 10), (33, 60), (100, 100), (51, 100)):
        exact = sum(math.comb(n, k) for k in range(correct, n + 1)) / 2**n
        assert page.evaluate(f"chance({correct}, {n})") == pytest.approx(exact, rel=1e-12)


def test_it_works_where_the_browser_stores_nothing(visit: Callable[..., Any], path: Path) -> None:
    page = visit(path)
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied'); }})")
    page.reload()
    page.click("#start-abx")
    for name in "abx":
        hear(page, name.upper(), lambda name=name: page.keyboard.press(name))
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    assert page.inner_text("#progress-text") == "Trial 2 of 10"
    page.reload()
    assert page.is_visible("#start-abx")


def test_loudness_check_and_transport(visit: Callable[..., Any], tmp_path: Path) -> None:
    sounds = {name: 0.1 * torch.randn(32000).clamp(-3, 3) for name in SYSTEMS}  # long enough to be caught playing
    write_listening_test(tmp_path / "listen.html", {"clip": sounds}, 16000, [("recording", "zebra")])
    page = visit(tmp_path / "listen.html")
    page.click("#check")
    page.wait_for_selector('#check:text("Stop the sample")')
    page.click("#check")
    page.wait_for_selector('#check:text("Play the sample")')
    page.click("#start-abx")
    page.wait_for_function("document.getElementById('time').textContent.endsWith('2.0 s')")
    page.keyboard.press("Space")
    page.wait_for_selector('#play:text("Pause")')
    page.keyboard.press("Space")
    page.wait_for_selector('#play:text("Play")')
    page.uncheck("#repeat")
    page.focus("#position")
    page.keyboard.press("Home")
    page.keyboard.press("b")
    page.wait_for_selector('[data-sound="B"][aria-pressed="true"]')
    page.wait_for_selector('#play:text("Play")')  # not repeated, it ends
    assert page.get_attribute('[data-sound="B"]', "data-heard") is not None
    assert page.inner_text("#time") == "2.0 of 2.0 s"


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_screens_fit_and_each_control_has_a_name(visit: Callable[..., Any], path: Path, width: int, theme: str) -> None:
    page = visit(path, width=width, color_scheme=theme)
    for test in ("abx", "mushra"):
        assert page.evaluate(WITHOUT_NAME) == []
        assert page.evaluate(OVERFLOW) <= 0
        page.click(f"#start-{test}")
        assert page.evaluate(WITHOUT_NAME) == []
        assert page.evaluate(OVERFLOW) <= 0
        assert page.evaluate("document.activeElement.tagName") == "H1", "a screen reader begins at the top"
        page.reload()
        assert page.evaluate(OVERFLOW) <= 0
        page.click("#resume-drop")
