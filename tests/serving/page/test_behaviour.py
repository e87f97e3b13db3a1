"""Behaviour of the page: API keys, a busy server, errors, small screens, keyboard use."""

import pytest
from playwright.sync_api import Page, expect

from tests.serving.fake_api import FakeServer
from tests.serving.page.conftest import PHONE, OpenPage

pytestmark = pytest.mark.browser

CONTENT_AND_WINDOW_WIDTH = "() => [document.documentElement.scrollWidth, innerWidth]"


def start_sampling(page: Page) -> None:
    page.get_by_role("button", name="Sample", exact=True).click()


def error_text(page: Page) -> str:
    alert = page.locator(".run-controls").get_by_role("alert")
    expect(alert).not_to_be_empty()
    return alert.inner_text()


def test_the_page_asks_for_a_required_key(open_page: OpenPage, server: FakeServer, allowed_messages: list[str]) -> None:
    allowed_messages.append("401")
    server.key = "correct-horse-battery"
    page = open_page(wait=False)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog).to_contain_text("That key was not accepted")
    dialog.get_by_label("API key").fill("correct-horse-battery")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    start_sampling(page)
    page.get_by_text("Done.").wait_for()
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_role("button", name="Copied").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert "Bearer $GEN_RAY_API_KEY" in command and "horse" not in command + page.url
    page.reload()  # the key is kept only in this browser tab
    page.get_by_role("tab", name="Sample").wait_for()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.get_by_role("button", name="Forget the key").click()
    start_sampling(page)
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    assert "a key is needed" in error_text(page)


def test_a_model_that_copies_its_training_data_is_marked(open_page: OpenPage) -> None:
    page, warning = open_page("model=tiles-sde"), "Promoted with --force although it copies its training data: 0.612"
    expect(page.locator("#model-warning")).to_contain_text(warning)
    page.get_by_label("Model", exact=True).select_option("digits-ddpm")
    expect(page.locator("#model-warning")).to_be_hidden()


def test_a_busy_server_is_retried_at_the_time_it_states(
    open_page: OpenPage, server: FakeServer, allowed_messages: list[str]
) -> None:
    allowed_messages.append("429")
    server.busy_responses, server.retry_after = 2, 2
    page = open_page("model=digits-ddpm&tab=sample")
    start_sampling(page)
    expect(page.get_by_role("status")).to_have_text("The server is busy; trying again in 2 s.")
    expect(page.get_by_role("status")).to_have_text("The server is busy; trying again in 1 s.")
    page.get_by_text("Done.").wait_for()
    assert server.count("sample") == 3


def test_waiting_for_a_busy_server_can_be_stopped(
    open_page: OpenPage, server: FakeServer, allowed_messages: list[str]
) -> None:
    allowed_messages.append("429")
    server.busy_responses, server.retry_after = 1, 30
    page = open_page("model=digits-ddpm&tab=sample")
    start_sampling(page)
    page.get_by_text("trying again in 30 s").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    assert server.count("sample") == 1


def test_an_error_is_shown_in_one_line(open_page: OpenPage, server: FakeServer, allowed_messages: list[str]) -> None:
    allowed_messages.append("422")
    server.error = "steps: <b>must</b> be at most 1000"
    page = open_page("model=digits-ddpm&tab=sample")
    start_sampling(page)
    assert error_text(page) == "steps: <b>must</b> be at most 1000 (request feed5eed)"
    server.error = None
    start_sampling(page)
    page.get_by_text("Done.").wait_for()
    expect(page.locator(".run-controls").get_by_role("alert")).to_be_empty()


def test_an_error_during_a_stream_is_shown(open_page: OpenPage, server: FakeServer) -> None:
    server.stream_error = "the model gave samples that are not numbers"
    page = open_page("model=digits-ddpm&tab=sample")
    start_sampling(page)
    assert error_text(page) == "the model gave samples that are not numbers (request feed5eed)"


def test_an_unreachable_server_is_reported(open_page: OpenPage, allowed_messages: list[str]) -> None:
    allowed_messages.append("ERR_")
    page = open_page("model=digits-ddpm&tab=sample")
    page.context.set_offline(True)
    start_sampling(page)
    assert error_text(page) == "The server cannot be reached."


def test_a_model_that_is_not_ready_cannot_be_selected(open_page: OpenPage) -> None:
    page = open_page("model=asleep")
    expect(page.get_by_role("option", name="asleep (not ready)")).to_be_disabled()
    expect(page.locator("#page-error")).to_have_text(
        "The model in the link is not available on this server. Another model is shown."
    )


@pytest.mark.parametrize("model", ["digits-ddpm", "digits-vae", "tiles-sde", "verse-absorbing"])
def test_a_phone_never_scrolls_sideways(open_page: OpenPage, model: str) -> None:
    page = open_page(f"model={model}&tab=sample&seed=1", viewport=PHONE)
    page.get_by_text("Done.").wait_for()
    for tab in page.get_by_role("tab").all():
        tab.click()
        inside, window = page.evaluate(CONTENT_AND_WINDOW_WIDTH)
        assert inside <= window, tab.inner_text()
        box = tab.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]


def test_on_a_phone_samples_are_scrolled_into_view(open_page: OpenPage) -> None:
    page = open_page("model=digits-ddpm&tab=sample", viewport=PHONE)
    start_sampling(page)
    expect(page.get_by_role("button", name="Sample 1", exact=True)).to_be_in_viewport()
    expect(page.get_by_role("button", name="Sample", exact=True)).to_be_in_viewport()


def test_a_touch_paints(browser: object, address: str, server: FakeServer) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)  # type: ignore[attr-defined]
    page = context.new_page()
    page.goto(f"{address}/#model=digits-ddpm&tab=impute")
    box = page.locator(".canvas").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.get_by_role("button", name="Impute", exact=True).tap()
    page.get_by_text("Done.").wait_for()
    assert server.count("impute") == 1
    context.close()


def test_every_control_is_reached_by_keyboard(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=sample")
    page.get_by_role("tab", name="Sample").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Impute")).to_be_focused()
    expect(page.get_by_role("button", name="Lower half")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.get_by_label("Number of samples").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Done.").wait_for()
    assert server.count("sample") == 1


@pytest.mark.parametrize("tab", ["sample", "impute", "latent", "score", "compare"])
def test_every_control_has_a_name(open_page: OpenPage, tab: str) -> None:
    page = open_page(f"model=digits-vae&tab={tab}")
    unnamed_controls = """() => [...document.querySelectorAll(":is(main, header) :is(input, select, textarea, button)")]
      .filter((one) => !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim())
      .map((one) => one.outerHTML)"""
    assert page.evaluate(unnamed_controls) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_page: OpenPage, scheme: str) -> None:
    page = open_page("model=digits-ddpm&tab=sample", color_scheme=scheme)
    style = "(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
    paper, field = (page.evaluate(style, name) for name in ("--background", "--control-background"))
    for ink in ("--text", "--muted", "--accent", "--error"):
        assert min(contrast_ratio(page.evaluate(style, ink), ground) for ground in (paper, field)) >= 4.5, ink
    assert contrast_ratio(page.evaluate(style, "--accent-text"), page.evaluate(style, "--accent")) >= 4.5


def contrast_ratio(one: str, other: str) -> float:
    """Return the contrast ratio of two colours #rgb or #rrggbb as defined by WCAG."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
