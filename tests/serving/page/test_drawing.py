"""The Draw tab: previews, seeds, links, and actions on samples."""

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.serving.fake_api import MODELS, Mood
from tests.serving.page.conftest import Open

pytestmark = pytest.mark.browser

NOTED = """() => {
  window.looks = [];
  const note = () => {
    const image = document.querySelector(".tile img");
    if (image?.src && image.src !== window.looks.at(-1)) window.looks.push(image.src);
  };
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def pictures(page: Page) -> list[str]:
    """Return the image sources of the tiles."""
    return page.locator(".tile img").evaluate_all("images => images.map((image) => image.src)")


def drawn(page: Page) -> list[str]:
    """Draw samples and return the image sources of their tiles."""
    page.get_by_role("button", name="Sample", exact=True).click()
    page.get_by_role("button", name="Copy as curl").wait_for()
    return pictures(page)


def test_previews_are_shown_during_sampling(view: Open, mood: Mood) -> None:
    mood.seconds = 0.1
    page = view("model=digits-ddpm&tab=sample")
    page.evaluate(NOTED)
    page.get_by_role("button", name="Sample", exact=True).click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator(".progress-count")).to_have_text(re.compile(r"^\d+ / 800$"))
    page.get_by_text("Done.").wait_for()
    looks = page.evaluate("window.looks")
    assert len(looks) == 9 and looks[-1] == pictures(page)[0]
    expect(page.get_by_role("progressbar")).to_be_hidden()
    expect(page.get_by_text("version 3 · ddim, 50 steps · 50 network evaluations · seed 0")).to_be_visible()
    expect(page.get_by_text("queued 4.2 ms · computed 731 ms")).to_be_visible()
    said = {"n": 16, "seed": 0, "sampler": "ddim", "steps": 50, "format": "png", "stream": True, "previews": 24}
    assert mood.last("sample") == said


def test_stop_cancels_the_request_and_keeps_the_last_preview(view: Open, mood: Mood) -> None:
    mood.seconds = 0.3
    page = view("model=digits-ddpm&tab=sample")
    page.get_by_role("button", name="Sample", exact=True).click()
    page.locator(".tile.has-sample").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_contain_text("Stopped after")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    kept = pictures(page)
    page.wait_for_timeout(700)
    assert mood.left == 1 and pictures(page) == kept


def test_a_seed_always_gives_the_same_image(view: Open) -> None:
    page = view("model=digits-ddpm&tab=sample")
    first = drawn(page)
    page.get_by_label("Seed", exact=True).fill("7")
    other = drawn(page)
    page.get_by_label("Seed", exact=True).fill("0")
    assert drawn(page) == first and not set(first) & set(other) and len(set(first)) == 16


def test_the_dice_button_chooses_a_seed_and_draws(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=sample")
    page.get_by_role("button", name="Use a random seed").click()
    page.get_by_text("Done.").wait_for()
    seed = int(page.get_by_label("Seed", exact=True).input_value())
    assert mood.last("sample")["seed"] == seed and f"seed={seed}" in page.url


def test_a_link_reproduces_the_samples(view: Open) -> None:
    page = view("model=digits-ddpm&tab=sample")
    page.get_by_label("Seed", exact=True).fill("12")
    page.get_by_label("Number of samples").fill("9")
    page.get_by_label("Sampler").select_option("dpmpp_2m")
    shown = drawn(page)
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    other = view(link.split("#")[1])
    other.get_by_role("button", name="Copy as curl").wait_for()
    assert pictures(other) == shown and len(shown) == 9
    assert other.get_by_label("Sampler").input_value() == "dpmpp_2m"


def test_the_page_sends_no_request_before_the_user_does(view: Open, mood: Mood) -> None:
    page = view()
    page.wait_for_timeout(200)
    assert not mood.asked and "model=digits-ddpm" in page.url and "seed=0" in page.url and "tab=sample" in page.url


def test_the_description_of_the_model_shows_its_quality(view: Open) -> None:
    expect(view().locator("#model-summary")).to_have_text(
        re.compile(r"levels · 2\.31 ± 0\.0176 bits/dim · Fréchet distance 11\.3$")
    )


def test_options_and_quality_select_a_sampler(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=sample")
    expect(page.get_by_text("Song et al. 2021, eq. 12")).to_be_visible()
    page.get_by_label("eta").fill("0.5")
    drawn(page)
    assert mood.last("sample")["sampler"] == "ddim:eta=0.5"
    page.get_by_role("radio", name="fast").check()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("10")
    drawn(page)
    assert (mood.last("sample")["sampler"], mood.last("sample")["steps"]) == ("dpmpp_2m", 10)
    assert "quality" not in mood.last("sample")
    page.get_by_label("Steps", exact=True).fill("11")
    expect(page.get_by_role("radio", name="fast")).not_to_be_checked()
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("min", "2")
    page.get_by_label("Steps (slider)").fill("0")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("2")


def test_a_point_of_the_curve_is_selected_by_mouse_and_keyboard(view: Open) -> None:
    page = view("model=digits-ddpm&tab=sample")
    page.get_by_role("button", name="ddim, 10 steps").click(force=True)
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_have_value("10")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Sampler")).to_have_value("dpmpp_2m")
    expect(steps).to_have_value("10")
    expect(page.locator(".quality-plot figcaption")).to_contain_text("dpmpp_2m, 10 steps: Fréchet distance")


def test_the_slider_of_steps_reaches_both_ends(view: Open) -> None:
    page = view("model=digits-ddpm&tab=sample")
    slider, steps = page.get_by_label("Steps (slider)"), page.get_by_label("Steps", exact=True)
    slider.press("End")
    expect(steps).to_have_value("1000")
    slider.press("Home")
    expect(steps).to_have_value("1")


def test_no_steps_are_sent_where_only_one_number_is_possible(view: Open, mood: Mood) -> None:
    page = view("model=digits-vae&tab=sample")
    expect(page.get_by_label("Steps", exact=True)).to_be_hidden()
    drawn(page)
    assert "steps" not in mood.last("sample")


def test_downloads_and_the_command_describe_the_same_request(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=sample&seed=3")
    page.get_by_text("Done.").wait_for()
    with page.expect_download() as png:
        page.get_by_role("button", name="Save all as PNG").click()
    assert png.value.suggested_filename == "digits-ddpm-3.png"
    assert png.value.path().read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as npz:
        page.get_by_role("button", name="Save all as npz").click()
    assert npz.value.path().read_bytes() == b"PK-numbers"
    asked = {"n": 16, "seed": 3, "sampler": "ddim", "steps": 50}
    assert mood.last("sample") == {**asked, "format": "npz"}
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_role("button", name="Copied").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert json.loads(command.split("-d '")[1].split("'")[0]) == {**asked, "format": "grid"}
    assert command.startswith("curl 'http://127.0.0.1") and command.endswith("-o 'digits-ddpm-3.png'")


def test_a_sample_can_be_passed_to_scoring(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=sample&seed=3")
    page.get_by_text("Done.").wait_for()
    page.get_by_role("button", name="Sample 2", exact=True).click()
    page.locator(".actions").get_by_role("button", name="Score").click()
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.get_by_role("list")).to_contain_text("bits/dim (elbo)")
    assert mood.count("score") == 1


def test_data_that_are_neither_image_nor_text_are_shown_as_numbers(view: Open) -> None:
    page = view("model=codes-order&tab=score&seed=6&n=3")
    expect(page.get_by_role("tab")).to_have_text([re.compile("Sample"), re.compile("Compare")])
    page.get_by_role("button", name="Sample", exact=True).click()
    page.get_by_text("Done.").wait_for()
    shown = [json.loads(text) for text in page.locator("pre").all_inner_texts()]
    assert shown == [MODELS["codes-order"].sample(6, row).tolist() for row in range(3)]


def test_two_models_are_compared_with_one_seed(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=compare&with=digits-vae&seed=4&n=6")
    page.get_by_text("Done.").wait_for()
    sides = page.locator(".compare-results")
    for side, model in enumerate(("digits-ddpm", "digits-vae")):
        assert sides.nth(side).locator(".tile.has-sample").count() == 6
        expect(sides.nth(side)).to_contain_text(model)
        expect(sides.nth(side)).to_contain_text("seed 4")
    bodies = {name: (body["seed"], body["n"], body["sampler"]) for name, _, body in mood.asked}
    assert bodies == {"digits-ddpm": (4, 6, "ddim"), "digits-vae": (4, 6, "mean")}
    page.get_by_label("Compare with").select_option("digits-ddpm")
    page.locator("fieldset").nth(1).get_by_label("Sampler").select_option("ancestral")
    page.get_by_role("button", name="Sample both").click()
    expect(sides.nth(1)).to_contain_text("ancestral, 1,000 steps")
    assert "with=digits-ddpm" in page.url and "with_sampler=ancestral" in page.url
