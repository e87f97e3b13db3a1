"""Fixtures of the page tests: a browser, the fake server, and a page whose script errors fail the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.serving import fake_api
from tests.serving.fake_api import Mood
from tests.serving.loopback import listening

CHROMIUM = Path("/usr/bin/chromium")
PHONE = {"width": 375, "height": 700}
Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the system's Chromium, headless; the tests fail if it is missing."""
    assert CHROMIUM.exists(), f"{CHROMIUM} is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def mood() -> Mood:
    """Return the state of the fake server, which a test may change, and its recorded requests."""
    return Mood()


@pytest.fixture
def address(mood: Mood) -> Iterator[str]:
    """Return the address of the fake server."""
    with listening(fake_api.build(mood), timeout_graceful_shutdown=1) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def expected() -> list[str]:
    """Return the allowed console messages; a test adds to them, because the browser logs every status 4xx."""
    return []


@pytest.fixture
def view(browser: Browser, address: str, expected: list[str]) -> Iterator[Open]:
    """Return a function that opens the page at a link; at the end, script errors and policy violations fail."""
    said: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(10_000)

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(words in message.text for words in expected):
            said.append(message.text)

    def view(link: str = "", *, wait: bool = True, **looks: object) -> Page:
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: said.append(str(error)))
        if viewport := looks.pop("viewport", None):
            page.set_viewport_size(viewport)  # type: ignore[arg-type]
        page.emulate_media(**looks)  # type: ignore[arg-type]
        page.goto(f"{address}/{link and '#'}{link}")
        if wait:
            page.get_by_role("tab", name="Sample").wait_for()
        return page

    yield view
    context.close()
    assert not said
