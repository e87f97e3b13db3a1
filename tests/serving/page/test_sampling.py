"""The Sample tab: previews, seeds, links, and actions on samples."""

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.serving.fake_api import MODELS, FakeServer
from tests.serving.page.conftest import OpenPage

pytestmark = pytest.mark.browser

RECORD_IMAGES = """() => {
  window.sources = [];
  const record = () => {
    const image = document.querySelector(".tile img");
    if (image?.src && image.src !== window.sources.at(-1)) window.sources.push(image.src);
  };
  new MutationObserver(record).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def image_sources(page: Page) -> list[str]:
    """Return the image sources of the tiles."""
    return page.locator(".tile img").evaluate_all("images => images.map((image) => image.src)")


def draw_samples(page: Page) -> list[str]:
    """Sample and return the image sources of the tiles."""
    page.get_by_role("button", name="Sample", exact=True).click()
    page.get_by_role("button", name="Copy as curl").wait_for()
    return image_sources(page)


def test_previews_are_shown_during_sampling(open_page: OpenPage, server: FakeServer) -> None:
    server.delay_seconds = 0.1
    page = open_page("model=digits-ddpm&tab=sample")
    page.evaluate(RECORD_IMAGES)
    page.get_by_role("button", name="Sample", exact=True).click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator(".progress-count")).to_have_text(re.compile(r"^\d+ / 800$"))
    page.get_by_text("Done.").wait_for()
    sources = page.evaluate("window.sources")
    assert len(sources) == 9 and sources[-1] == image_sources(page)[0]
    expect(page.get_by_role("progressbar")).to_be_hidden()
    expect(page.get_by_text("version 3 · ddim, 50 steps · 50 network evaluations · seed 0")).to_be_visible()
    expect(page.get_by_text("queued 4.2 ms · computed 731 ms")).to_be_visible()
    expected_body = {
        "n": 16,
        "seed": 0,
        "sampler": "ddim",
        "steps": 50,
        "format": "png",
        "stream": True,
        "previews": 24,
    }
    assert server.last("sample") == expected_body


def test_stop_cancels_the_request_and_keeps_the_last_preview(open_page: OpenPage, server: FakeServer) -> None:
    server.delay_seconds = 0.3
    page = open_page("model=digits-ddpm&tab=sample")
    page.get_by_role("button", name="Sample", exact=True).click()
    page.locator(".tile.has-sample").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_contain_text("Stopped after")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    previews = image_sources(page)
    page.wait_for_timeout(700)
    assert server.disconnected_streams == 1 and image_sources(page) == previews


def test_a_seed_always_gives_the_same_image(open_page: OpenPage) -> None:
    page = open_page("model=digits-ddpm&tab=sample")
    first = draw_samples(page)
    page.get_by_label("Seed", exact=True).fill("7")
    other = draw_samples(page)
    page.get_by_label("Seed", exact=True).fill("0")
    assert draw_samples(page) == first and not set(first) & set(other) and len(set(first)) == 16


def test_the_random_seed_button_chooses_a_seed_and_samples(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=sample")
    page.get_by_role("button", name="Use a random seed").click()
    page.get_by_text("Done.").wait_for()
    seed = int(page.get_by_label("Seed", exact=True).input_value())
    assert server.last("sample")["seed"] == seed and f"seed={seed}" in page.url


def test_a_link_reproduces_the_samples(open_page: OpenPage) -> None:
    page = open_page("model=digits-ddpm&tab=sample")
    page.get_by_label("Seed", exact=True).fill("12")
    page.get_by_label("Number of samples").fill("9")
    page.get_by_label("Sampler").select_option("dpmpp_2m")
    shown = draw_samples(page)
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    other = open_page(link.split("#")[1])
    other.get_by_role("button", name="Copy as curl").wait_for()
    assert image_sources(other) == shown and len(shown) == 9
    assert other.get_by_label("Sampler").input_value() == "dpmpp_2m"


def test_the_page_sends_no_request_before_the_user_does(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page()
    page.wait_for_timeout(200)
    assert not server.requests and "model=digits-ddpm" in page.url and "seed=0" in page.url and "tab=sample" in page.url


def test_the_description_of_the_model_shows_its_quality(open_page: OpenPage) -> None:
    expect(open_page().locator("#model-summary")).to_have_text(
        re.compile(r"levels · 2\.31 ± 0\.0176 bits/dim · Fréchet distance 11\.3$")
    )


def test_options_and_quality_select_a_sampler(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=sample")
    expect(page.get_by_text("Song et al. 2021, eq. 12")).to_be_visible()
    page.get_by_label("eta").fill("0.5")
    draw_samples(page)
    assert server.last("sample")["sampler"] == "ddim:eta=0.5"
    page.get_by_role("radio", name="fast").check()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("10")
    draw_samples(page)
    assert (server.last("sample")["sampler"], server.last("sample")["steps"]) == ("dpmpp_2m", 10)
    assert "quality" not in server.last("sample")
    page.get_by_label("Steps", exact=True).fill("11")
    expect(page.get_by_role("radio", name="fast")).not_to_be_checked()
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("min", "2")
    page.get_by_label("Steps (slider)").fill("0")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("2")


def test_a_point_of_the_quality_plot_is_selected_by_mouse_and_keyboard(open_page: OpenPage) -> None:
    page = open_page("model=digits-ddpm&tab=sample")
    page.get_by_role("button", name="ddim, 10 steps").click(force=True)
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_have_value("10")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Sampler")).to_have_value("dpmpp_2m")
    expect(steps).to_have_value("10")
    expect(page.locator(".quality-plot figcaption")).to_contain_text("dpmpp_2m, 10 steps: Fréchet distance")


def test_the_slider_of_steps_reaches_both_ends(open_page: OpenPage) -> None:
    page = open_page("model=digits-ddpm&tab=sample")
    slider, steps = page.get_by_label("Steps (slider)"), page.get_by_label("Steps", exact=True)
    slider.press("End")
    expect(steps).to_have_value("1000")
    slider.press("Home")
    expect(steps).to_have_value("1")


def test_no_steps_are_sent_where_only_one_number_is_possible(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-vae&tab=sample")
    expect(page.get_by_label("Steps", exact=True)).to_be_hidden()
    draw_samples(page)
    assert "steps" not in server.last("sample")


def test_downloads_and_the_command_describe_the_same_request(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=sample&seed=3")
    page.get_by_text("Done.").wait_for()
    with page.expect_download() as png:
        page.get_by_role("button", name="Save all as PNG").click()
    assert png.value.suggested_filename == "digits-ddpm-3.png"
    assert png.value.path().read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as npz:
        page.get_by_role("button", name="Save all as npz").click()
    assert npz.value.path().read_bytes() == b"PK-numbers"
    expected_body = {"n": 16, "seed": 3, "sampler": "ddim", "steps": 50}
    assert server.last("sample") == {**expected_body, "format": "npz"}
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_role("button", name="Copied").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert json.loads(command.split("-d '")[1].split("'")[0]) == {**expected_body, "format": "grid"}
    assert command.startswith("curl 'http://127.0.0.1") and command.endswith("-o 'digits-ddpm-3.png'")


def test_a_sample_can_be_passed_to_scoring(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=sample&seed=3")
    page.get_by_text("Done.").wait_for()
    page.get_by_role("button", name="Sample 2", exact=True).click()
    page.locator(".actions").get_by_role("button", name="Score").click()
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.get_by_role("list")).to_contain_text("bits/dim (elbo)")
    assert server.count("score") == 1


def test_data_that_are_neither_image_nor_text_are_shown_as_numbers(open_page: OpenPage) -> None:
    page = open_page("model=codes-order&tab=score&seed=6&n=3")
    expect(page.get_by_role("tab")).to_have_text([re.compile("Sample"), re.compile("Compare")])
    page.get_by_role("button", name="Sample", exact=True).click()
    page.get_by_text("Done.").wait_for()
    shown = [json.loads(text) for text in page.locator("pre").all_inner_texts()]
    assert shown == [MODELS["codes-order"].sample(6, row).tolist() for row in range(3)]


def test_two_models_are_compared_with_one_seed(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=compare&with=digits-vae&seed=4&n=6")
    page.get_by_text("Done.").wait_for()
    sides = page.locator(".compare-results")
    for side, model in enumerate(("digits-ddpm", "digits-vae")):
        assert sides.nth(side).locator(".tile.has-sample").count() == 6
        expect(sides.nth(side)).to_contain_text(model)
        expect(sides.nth(side)).to_contain_text("seed 4")
    bodies = {name: (body["seed"], body["n"], body["sampler"]) for name, _, body in server.requests}
    assert bodies == {"digits-ddpm": (4, 6, "ddim"), "digits-vae": (4, 6, "mean")}
    page.get_by_label("Compare with").select_option("digits-ddpm")
    page.locator("fieldset").nth(1).get_by_label("Sampler").select_option("ancestral")
    page.get_by_role("button", name="Sample both").click()
    expect(sides.nth(1)).to_contain_text("ancestral, 1,000 steps")
    assert "with=digits-ddpm" in page.url and "with_sampler=ancestral" in page.url
