"""The API document in a browser: it opens without a key under its content policy; a key entered there is used."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from gen_ray.serving.api import build
from gen_ray.serving.settings import ApiKey, ApiSettings
from tests.serving.loopback import listening
from tests.serving.services import fake_services

KEY = "the-key-of-this-test"


@pytest.fixture
def address() -> Iterator[str]:
    app = build(fake_services(), ApiSettings(keys=(ApiKey.of("anna", KEY),)))
    with listening(app, timeout_graceful_shutdown=1) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.browser
def test_the_document_is_shown_and_sends_requests_with_a_key(browser: Browser, address: str) -> None:
    page, messages = browser.new_page(), list[str]()
    page.on("console", lambda message: messages.append(message.text))
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(f"{address}/docs")
    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".auth-container input").fill(KEY)
    page.locator(".auth-btn-wrapper button[type=submit]").click()
    page.locator(".btn-done").click()
    page.locator("#operations-models-models_v1_models_get").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    for verb in ("impute", "score"):  # the unchanged examples
        block = page.locator(f"#operations-verbs-{verb}_v1_models__name__{verb}_post")
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        block.get_by_placeholder("name").fill("digits")
        block.get_by_role("button", name="Execute").click()
        block.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    assert messages == [] and all(url.startswith((address, "data:", "blob:")) for url in urls)
    page.close()
