"""The page at `/` of the server, in a browser."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from served import LIMITS, Running, serving, wav

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow
FILE = {"name": "hum.wav", "mimeType": "audio/wav", "buffer": wav()}
VERSIONS = ["1recording", "2student, 0 passes", "3student", "4Griffin-Lim"]


@pytest.fixture(scope="module")
def server(chromium: Any) -> Iterator[Running]:
    """It takes the browser so that no server is started where there is none."""
    torch.manual_seed(0)
    for running in serving(LIMITS._replace(idle_seconds=20.0), token="secret"):
        running.post("/v1/report", wav(), headers={"Authorization": "Bearer secret"})  # the first one imports and compiles
        yield running


@pytest.fixture
def start(server: Running, visit: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the page; with the token typed unless told otherwise."""

    def start_page(token: str = "secret", **options: Any) -> Any:
        page = visit(f"http://127.0.0.1:{server.port}/", **options)
        page.get_by_label("Model").locator("option").wait_for(state="attached")
        page.locator("#token").evaluate("(field, token) => (field.value = token)", token)
        return page

    return start_page


def versions(page: Any) -> list[str]:
    """Returns the versions of the report that the page shows, once it is there."""
    report = page.frame_locator("#report")
    report.locator(".versions button").first.wait_for()
    return report.locator(".versions button").all_text_contents()


@pytest.mark.parametrize(("width", "theme"), [(1400, "light"), (390, "dark")])
def test_a_file_is_drawn_after_and_drawn_again(start: Callable[..., Any], width: int, theme: str) -> None:
    page = start(width=width, color_scheme=theme)
    assert page.get_by_label("Model").locator("option").all_text_contents() == ["student"], "a teacher draws too slowly"
    page.get_by_label("Drop a recording here").set_input_files(FILE)
    assert versions(page) == VERSIONS
    for root in (page.locator("html"), page.frame_locator("#report").locator("html")):
        assert root.evaluate("(root) => root.scrollWidth <= root.clientWidth"), "nothing lies beyond the edge"
    page.get_by_label("passes").fill("0")
    with page.expect_response("**/v1/report*") as answer:
        page.get_by_label("Temperature").fill("0.5")
        page.keyboard.press("Enter")
    assert {"temperature=0.5", "passes=0", "model=student"} <= set(answer.value.url.split("?")[1].split("&"))
    page.frame_locator("#report").get_by_text("3Griffin-Lim").wait_for()
    assert page.locator("#save").get_attribute("href").startswith("blob:")


def test_the_report_follows_the_theme(start: Callable[..., Any]) -> None:
    page = start()
    page.get_by_label("Drop a recording here").set_input_files(FILE)
    versions(page)
    page.get_by_role("button", name="Dark theme").click()
    page.frame_locator("#report").locator("html[data-theme=dark]").wait_for()
    assert page.frame_locator("#report").locator("#theme").is_hidden(), "one button for both"


def test_the_microphone_and_what_is_dropped_are_taken(start: Callable[..., Any]) -> None:
    page = start()
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop").wait_for()
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Stop").click()
    assert versions(page) == VERSIONS
    page.get_by_text("Your recording and what").wait_for()
    page.evaluate(
        """(bytes) => { const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([Uint8Array.from(bytes)], "dropped.wav"));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer })); }""",
        [*FILE["buffer"]],
    )
    page.get_by_text("dropped.wav and what").wait_for()


def test_a_text_is_spoken(start: Callable[..., Any]) -> None:
    page = start()
    page.get_by_label("Or a text").fill("A cab.")
    page.get_by_role("button", name="Speak").click()
    page.locator("#spoken:not([hidden])").wait_for()
    assert page.locator("#spoken").evaluate("(sound) => sound.play().then(() => sound.duration)") > 0


def test_what_the_server_refuses_is_said(start: Callable[..., Any]) -> None:
    page = start(token="")
    assert page.get_by_label("Token").is_hidden()
    page.get_by_label("Drop a recording here").set_input_files(FILE)
    page.get_by_text("A bearer token is needed").wait_for()
    page.get_by_label("Token").fill("secret")
    page.keyboard.press("Enter")
    assert versions(page) == VERSIONS
    page.get_by_label("Drop a recording here").set_input_files(FILE | {"buffer": wav(2.1)})
    page.get_by_text("2.1 s of audio, 2 s are the limit").wait_for()
