"""Fixtures of the page tests: a browser, the fake server, and a page whose script errors fail the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.serving import fake_api
from tests.serving.fake_api import FakeServer
from tests.serving.loopback import listening

CHROMIUM = Path("/usr/bin/chromium")
PHONE = {"width": 375, "height": 700}
OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the system's Chromium, headless; the tests fail if it is missing."""
    assert CHROMIUM.exists(), f"{CHROMIUM} is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server() -> FakeServer:
    """Return the fake server: its settings, which a test may change, and its recorded requests."""
    return FakeServer()


@pytest.fixture
def address(server: FakeServer) -> Iterator[str]:
    """Return the address of the fake server."""
    with listening(fake_api.build(server), timeout_graceful_shutdown=1) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def allowed_messages() -> list[str]:
    """Return parts of allowed console messages. Tests add to them, because the browser logs every 4xx response."""
    return []


@pytest.fixture
def open_page(browser: Browser, address: str, allowed_messages: list[str]) -> Iterator[OpenPage]:
    """Return a function that opens the page at a link. Script errors and policy violations fail the test."""
    messages: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(10_000)

    def record(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in allowed_messages):
            messages.append(message.text)

    def open_page(link: str = "", *, wait: bool = True, **media: object) -> Page:
        page = context.new_page()
        page.on("console", record)
        page.on("pageerror", lambda error: messages.append(str(error)))
        if viewport := media.pop("viewport", None):
            page.set_viewport_size(viewport)  # type: ignore[arg-type]
        page.emulate_media(**media)  # type: ignore[arg-type]
        page.goto(f"{address}/{link and '#'}{link}")
        if wait:
            page.get_by_role("tab", name="Sample").wait_for()
        return page

    yield open_page
    context.close()
    assert not messages
