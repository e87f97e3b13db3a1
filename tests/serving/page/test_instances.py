"""The tabs for imputation, scores and the latent space, used by mouse, keyboard and with files."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.serving import fake_api
from tests.serving.fake_api import FakeServer
from tests.serving.page.conftest import OpenPage

pytestmark = pytest.mark.browser


def decode_grey(text: str) -> np.ndarray:
    """Return an image that the server received, as grey levels (H, W)."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"))


def pixel_centre(canvas: Locator, x: float, y: float) -> tuple[float, float]:
    """Return the window coordinates of the centre of a pixel of an 8 x 8 image."""
    box = canvas.bounding_box()
    assert box
    return box["x"] + (x + 0.5) * box["width"] / 8, box["y"] + (y + 0.5) * box["height"] / 8


def draw_stroke(page: Page, *pixels: tuple[int, int]) -> None:
    """Draw a line from pixel to pixel with the mouse button pressed."""
    canvas = page.locator(".canvas")
    page.mouse.move(*pixel_centre(canvas, *pixels[0]))
    page.mouse.down()
    for pixel in pixels[1:]:
        page.mouse.move(*pixel_centre(canvas, *pixel), steps=3)
    page.mouse.up()


def click_button(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_values_are_imputed_where_the_mask_was_painted(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=impute&seed=9")
    click_button(page, "Use a model sample")
    page.get_by_text("Sampling from the model").wait_for(state="hidden")
    draw_stroke(page, (1, 2), (5, 2), (5, 6))
    page.get_by_label("Number of completions").fill("5")
    click_button(page, "Impute")
    page.get_by_text("Done.").wait_for()
    body, mask = server.last("impute"), np.zeros((8, 8), dtype=np.uint8)
    mask[2, 1:6] = mask[2:7, 5] = 255
    assert (decode_grey(body["mask"]) == mask).all()
    assert (body["n"], body["seed"], body["sampler"], body["steps"]) == (5, 9, "repaint", 50)
    source = fake_api.MODELS["digits-ddpm"].sample(server.last("sample")["seed"], 0)
    assert (decode_grey(body["image"]) == source[0]).all()
    shown = page.locator(".tile img").evaluate_all("images => images.map((image) => image.src.split(',')[1])")
    assert len(shown) == 5 and all((decode_grey(png)[mask == 0] == source[0][mask == 0]).all() for png in shown)


def test_the_mask_can_be_erased_preset_and_inverted(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=impute")

    def mask() -> np.ndarray:
        before = server.count("impute")
        click_button(page, "Impute")
        page.get_by_text("Done.").wait_for()
        assert server.count("impute") == before + 1
        return decode_grey(server.last("impute")["mask"]) > 127

    click_button(page, "Lower half")
    y, x = np.mgrid[:8, :8]
    assert (mask() == (y >= 4)).all()
    click_button(page, "Invert mask")
    assert (mask() == (y < 4)).all()
    page.get_by_role("radio", name="Unmask").check()
    draw_stroke(page, (0, 0), (7, 0))
    assert (mask() == ((y < 4) & (y > 0))).all()
    click_button(page, "Right half")
    assert (mask() == (x >= 4)).all()
    click_button(page, "Clear mask")
    click_button(page, "Impute")
    expect(page.locator(".run-controls").get_by_role("alert")).to_have_text(
        "The mask is empty. Paint over the pixels to impute."
    )


def test_the_brush_size_sets_the_painted_square(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=impute")
    page.get_by_label("Brush size").fill("3")
    draw_stroke(page, (3, 3))
    click_button(page, "Impute")
    page.get_by_text("Done.").wait_for()
    y, x = np.mgrid[:8, :8]
    assert ((decode_grey(server.last("impute")["mask"]) > 127) == ((abs(x - 3) <= 1) & (abs(y - 3) <= 1))).all()


def test_the_canvas_editor_supports_the_keyboard(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=impute")
    page.locator(".canvas").focus()
    for key in ("Space", "ArrowLeft", "ArrowLeft", "Space", "Shift+ArrowDown"):
        page.keyboard.press(key)
    click_button(page, "Impute")
    page.get_by_text("Done.").wait_for()
    missing = {(int(x), int(y)) for y, x in np.argwhere(decode_grey(server.last("impute")["mask"]))}
    assert missing == {(4, 4), (2, 4), (2, 5)}


def test_an_image_can_be_painted_and_erased(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=score")
    draw_stroke(page, (0, 0), (7, 7))
    page.get_by_role("radio", name="Erase").check()
    draw_stroke(page, (0, 0))
    click_button(page, "Score")
    page.get_by_role("listitem").wait_for()
    drawn = decode_grey(server.last("score")["images"][0])
    assert drawn[7, 7] == 255 and drawn[0, 0] == 0 and (drawn > 0).sum() >= 7


def test_an_upload_is_converted_to_the_size_and_colours_of_the_model(
    open_page: OpenPage, server: FakeServer, tmp_path: Path
) -> None:
    page, file = open_page("model=digits-ddpm&tab=score"), tmp_path / "wide.png"
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, 20:60] = (200, 200, 200)  # only the middle is kept
    Image.fromarray(wide).save(file)
    page.get_by_label("Upload an image").set_input_files(file)
    page.wait_for_timeout(200)
    click_button(page, "Score")
    page.get_by_role("listitem").wait_for()
    assert (decode_grey(server.last("score")["images"][0]) == 200).all()


def test_a_file_that_is_not_an_image_is_reported(open_page: OpenPage, tmp_path: Path) -> None:
    page, file = open_page("model=digits-ddpm&tab=score"), tmp_path / "picture.png"
    file.write_bytes(b"not a picture")
    page.get_by_label("Upload an image").set_input_files(file)
    expect(page.locator(".run-controls").get_by_role("alert")).to_contain_text(
        "picture.png: this browser cannot read the file as an image"
    )


def test_a_score_is_a_number_with_its_error_and_kind(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-ddpm&tab=score&seed=2")
    page.get_by_label("Effort").fill("64")
    click_button(page, "Score")
    expect(page.get_by_role("status")).to_have_text("1.500 ± 0.021 bits/dim (elbo)")
    assert (server.last("score")["seed"], server.last("score")["effort"]) == (2, 64)


def test_dragging_over_latent_space_moves_the_decoded_image(open_page: OpenPage, server: FakeServer) -> None:
    server.delay_seconds = 0.08
    page = open_page("model=digits-vae&tab=latent")
    image, pad = page.locator(".decoded img"), page.locator(".latent-map")
    expect(image).to_have_attribute("src", _decoded_image(0, 0))
    grid = next(body for _, verb, body in server.requests if verb == "decode" and len(body["z"]) > 1)
    assert len(grid["z"]) == 144 and grid["z"][0] == [-2.75, 2.75]
    box = pad.bounding_box()
    assert box
    before = server.count("decode")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 5 / 6, box["y"] + box["height"] / 6, steps=40)
    page.mouse.up()
    expect(page.get_by_label("z 1", exact=True)).to_have_value("2")
    expect(image).to_have_attribute("src", _decoded_image(2, 2))
    assert server.last("decode")["z"] == [[2, 2]] and 1 < server.count("decode") - before < 40


def test_sliders_are_shown_in_groups_of_twenty_and_support_the_keyboard(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = open_page("model=digits-vae-24&tab=latent")
    expect(page.get_by_label("z 21", exact=True)).to_be_hidden()
    page.get_by_text("4 more dimensions").click()
    page.get_by_label("z 24", exact=True).press("End")
    page.get_by_label("z 1", exact=True).press("Home")
    expect(page.locator(".decoded img")).to_have_attribute("src", _decoded_image(-3, 0))
    page.wait_for_timeout(100)
    assert server.last("decode")["z"] == [[-3, *[0] * 22, 3]]


def test_an_image_is_encoded_and_a_seed_gives_a_point(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=digits-vae&tab=latent&seed=5")
    click_button(page, "Encode")  # the fake model encodes a black image as (−2, −2)
    expect(page.get_by_label("z 1", exact=True)).to_have_value("-2")
    click_button(page, "z ∼ N(0, I)")
    first = page.get_by_label("z 1", exact=True).input_value()
    click_button(page, "z = 0")
    click_button(page, "z ∼ N(0, I)")
    assert page.get_by_label("z 1", exact=True).input_value() == first != "0"


def test_only_models_with_a_latent_space_have_the_tab(open_page: OpenPage) -> None:
    page = open_page("model=digits-ddpm&tab=latent")
    expect(page.get_by_role("tab", name="Sample")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Latent")).to_have_count(0)
    page.get_by_label("Model", exact=True).select_option("digits-vae")
    expect(page.get_by_role("tab", name="Latent")).to_be_visible()


def test_a_text_model_samples_imputes_and_scores_texts(open_page: OpenPage, server: FakeServer) -> None:
    server.delay_seconds = 0.1
    page = open_page("model=verse-absorbing&tab=sample&n=2")
    click_button(page, "Sample")
    expect(page.locator("pre .undecided").first).to_be_visible()  # undecided characters
    page.get_by_text("Done.").wait_for()
    expect(page.locator("pre").first).to_have_text(_sampled_text(0))
    page.get_by_role("tab", name="Impute").click()
    text = page.get_by_label("Text (_ marks a missing character)")
    text.fill("shall i compare ____ to a day!")
    expect(
        page.get_by_text("30 of 64 characters · 4 missing · 34 appended as missing · not in the model's alphabet: !")
    ).to_be_visible()
    text.fill("shall i compare ____ to a day")
    click_button(page, "Impute")
    page.get_by_text("Done.").wait_for()
    body = server.last("impute")
    assert (body["text"], body["hole"], body["format"]) == ("shall i compare ____ to a day", "_", "json")
    filled = page.locator("pre").first
    verse = _sampled_text(0)
    expect(filled.locator("mark").first).to_have_text(verse[16:20])
    expect(filled.locator("mark").last).to_have_text(verse[29:])
    text.select_text()
    click_button(page, "Mask the selection")
    assert text.input_value() == "_" * 29
    page.get_by_role("tab", name="Score").click()
    click_button(page, "Use a model sample")
    page.get_by_text("64 of 64 characters").wait_for()
    click_button(page, "Score")
    expect(page.get_by_role("status")).to_have_text("2.300 ± 0.021 bits/dim (elbo)")


def test_a_drawn_image_has_the_colours_of_the_model(open_page: OpenPage, server: FakeServer) -> None:
    page = open_page("model=tiles-sde&tab=score")
    page.get_by_label("Paint colour").fill("#ff8000")
    draw_stroke(page, (4, 4))
    click_button(page, "Score")
    page.get_by_role("listitem").wait_for()
    rgb = np.array(Image.open(io.BytesIO(base64.b64decode(server.last("score")["images"][0]))).convert("RGB"))
    assert rgb.shape == (32, 32, 3) and {tuple(map(int, pixel)) for pixel in rgb.reshape(-1, 3)} == {
        (0, 0, 0),
        (255, 128, 0),
    }


def _decoded_image(*z: float) -> str:
    return f"data:image/png;base64,{fake_api.png(fake_api.MODELS['digits-vae'].decode(np.array(z, dtype=float)))}"


def _sampled_text(seed: int) -> str:
    model = fake_api.MODELS["verse-absorbing"]
    return str(model.show(model.sample(seed, 0)))
