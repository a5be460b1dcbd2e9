"""Pages in a real browser: fixtures for tests of HTML. A test module takes them with `pytest_plugins = ["browser"]`.

The browser is Debian's Chromium or Google Chrome, headless, driven by Playwright; without either the tests are skipped.
Pages come from disk, and a page that logs an error or asks the network for anything fails its test.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--autoplay-policy=no-user-gesture-required", "--mute-audio"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),  # a microphone that beeps
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests of a module. Not of the session: Playwright holds asyncio's loop as long as it lives."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs chromium or google-chrome")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Returns `visit(path, width=1280, height=800, query="", script="", **context)`: opens a file or the page of a server.

    It returns Playwright's page.

    `script` runs before the page's own; `context` goes to `browser.new_context`: `color_scheme="dark"`,
    `java_script_enabled=False` ...
    At the end of the test no page may have logged an error or have asked for anything but what lies on the disk or its server.
    """
    problems, contexts = [], []

    def open_page(
        path: Path | str, width: int = 1280, height: int = 800, query: str = "", script: str = "", **context: Any
    ) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)  # a busy machine
        page.on("console", lambda message: is_problem(message) and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        address = path if isinstance(path, str) else path.resolve().as_uri()
        page.on("request", lambda request: is_remote(request.url, address) and problems.append(f"request: {request.url}"))
        page.add_init_script(script)
        page.goto(address + query)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems, problems


def is_problem(message: Any) -> bool:
    """Whether a message is one of the page's own; that a server refused a request is no fault of the page."""
    refusal = message.text.startswith("Failed to load resource: the server responded with a status of 4")
    return message.type in ("error", "warning") and not refusal


def is_remote(url: str, own: str = "file:") -> bool:
    return not url.startswith(("file:", "data:", "blob:", own))
