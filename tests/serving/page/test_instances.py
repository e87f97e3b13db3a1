"""The tabs for imputation, scores and the latent space, used by mouse, keyboard and with files."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.serving import fake_api
from tests.serving.fake_api import Mood
from tests.serving.page.conftest import Open

pytestmark = pytest.mark.browser


def sent(text: str) -> np.ndarray:
    """Return an image that the server received, as grey levels (H, W)."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"))


def at(board: Locator, x: float, y: float) -> tuple[float, float]:
    """Return the window coordinates of the centre of a pixel of an 8 x 8 image."""
    box = board.bounding_box()
    assert box
    return box["x"] + (x + 0.5) * box["width"] / 8, box["y"] + (y + 0.5) * box["height"] / 8


def stroke(page: Page, *places: tuple[int, int]) -> None:
    """Draw a line from pixel to pixel with the mouse button pressed."""
    board = page.locator(".canvas")
    page.mouse.move(*at(board, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*at(board, *place), steps=3)
    page.mouse.up()


def pressed(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_missing_values_are_filled_where_they_were_painted(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=impute&seed=9")
    pressed(page, "Use a model sample")
    page.get_by_text("Sampling from the model").wait_for(state="hidden")
    stroke(page, (1, 2), (5, 2), (5, 6))
    page.get_by_label("Number of imputations").fill("5")
    pressed(page, "Impute")
    page.get_by_text("Done.").wait_for()
    asked, hole = mood.last("impute"), np.zeros((8, 8), dtype=np.uint8)
    hole[2, 1:6] = hole[2:7, 5] = 255
    assert (sent(asked["mask"]) == hole).all()
    assert (asked["n"], asked["seed"], asked["sampler"], asked["steps"]) == (5, 9, "repaint", 50)
    one = fake_api.MODELS["digits-ddpm"].sample(mood.last("sample")["seed"], 0)
    assert (sent(asked["image"]) == one[0]).all()
    shown = page.locator(".tile img").evaluate_all("images => images.map((image) => image.src.split(',')[1])")
    assert len(shown) == 5 and all((sent(png)[hole == 0] == one[0][hole == 0]).all() for png in shown)


def test_the_mask_can_be_erased_preset_and_inverted(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=impute")

    def hole() -> np.ndarray:
        before = mood.count("impute")
        pressed(page, "Impute")
        page.get_by_text("Done.").wait_for()
        assert mood.count("impute") == before + 1
        return sent(mood.last("impute")["mask"]) > 127

    pressed(page, "Lower half")
    y, x = np.mgrid[:8, :8]
    assert (hole() == (y >= 4)).all()
    pressed(page, "Invert mask")
    assert (hole() == (y < 4)).all()
    page.get_by_role("radio", name="Unmask").check()
    stroke(page, (0, 0), (7, 0))
    assert (hole() == ((y < 4) & (y > 0))).all()
    pressed(page, "Right half")
    assert (hole() == (x >= 4)).all()
    pressed(page, "Clear mask")
    pressed(page, "Impute")
    expect(page.locator(".run-controls").get_by_role("alert")).to_have_text(
        "The mask is empty. Paint over the pixels to impute."
    )


def test_a_brush_has_a_size(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=impute")
    page.get_by_label("Brush size").fill("3")
    stroke(page, (3, 3))
    pressed(page, "Impute")
    page.get_by_text("Done.").wait_for()
    y, x = np.mgrid[:8, :8]
    assert ((sent(mood.last("impute")["mask"]) > 127) == ((abs(x - 3) <= 1) & (abs(y - 3) <= 1))).all()


def test_the_canvas_editor_supports_the_keyboard(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=impute")
    page.locator(".canvas").focus()
    for key in ("Space", "ArrowLeft", "ArrowLeft", "Space", "Shift+ArrowDown"):
        page.keyboard.press(key)
    pressed(page, "Impute")
    page.get_by_text("Done.").wait_for()
    holes = {(int(x), int(y)) for y, x in np.argwhere(sent(mood.last("impute")["mask"]))}
    assert holes == {(4, 4), (2, 4), (2, 5)}


def test_ink_and_touch_draw_an_image(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=score")
    stroke(page, (0, 0), (7, 7))
    page.get_by_role("radio", name="Erase").check()
    stroke(page, (0, 0))
    pressed(page, "Score")
    page.get_by_role("listitem").wait_for()
    drawn = sent(mood.last("score")["images"][0])
    assert drawn[7, 7] == 255 and drawn[0, 0] == 0 and (drawn > 0).sum() >= 7


def test_an_upload_is_converted_to_the_size_and_colours_of_the_model(view: Open, mood: Mood, tmp_path: Path) -> None:
    page, file = view("model=digits-ddpm&tab=score"), tmp_path / "wide.png"
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, 20:60] = (200, 200, 200)  # the middle, which is kept
    Image.fromarray(wide).save(file)
    page.get_by_label("Upload an image").set_input_files(file)
    page.wait_for_timeout(200)
    pressed(page, "Score")
    page.get_by_role("listitem").wait_for()
    assert (sent(mood.last("score")["images"][0]) == 200).all()


def test_a_file_that_is_not_an_image_is_reported(view: Open, tmp_path: Path) -> None:
    page, file = view("model=digits-ddpm&tab=score"), tmp_path / "picture.png"
    file.write_bytes(b"not a picture")
    page.get_by_label("Upload an image").set_input_files(file)
    expect(page.locator(".run-controls").get_by_role("alert")).to_contain_text(
        "picture.png: this browser cannot read the file as an image"
    )


def test_a_score_is_a_number_with_its_error_and_kind(view: Open, mood: Mood) -> None:
    page = view("model=digits-ddpm&tab=score&seed=2")
    page.get_by_label("Effort").fill("64")
    pressed(page, "Score")
    expect(page.get_by_role("status")).to_have_text("1.500 ± 0.021 bits/dim (elbo)")
    assert (mood.last("score")["seed"], mood.last("score")["effort"]) == (2, 64)


def test_dragging_over_latent_space_moves_the_picture(view: Open, mood: Mood) -> None:
    mood.seconds = 0.08
    page = view("model=digits-vae&tab=latent")
    image, pad = page.locator(".decoded img"), page.locator(".latent-map")
    expect(image).to_have_attribute("src", _decoded(0, 0))
    survey = next(body for _, verb, body in mood.asked if verb == "decode" and len(body["z"]) > 1)
    assert len(survey["z"]) == 144 and survey["z"][0] == [-2.75, 2.75]
    box = pad.bounding_box()
    assert box
    before = mood.count("decode")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 5 / 6, box["y"] + box["height"] / 6, steps=40)
    page.mouse.up()
    expect(page.get_by_label("z 1", exact=True)).to_have_value("2")
    expect(image).to_have_attribute("src", _decoded(2, 2))
    assert mood.last("decode")["z"] == [[2, 2]] and 1 < mood.count("decode") - before < 40


def test_sliders_are_shown_in_groups_of_twenty_and_support_the_keyboard(view: Open, mood: Mood) -> None:
    page = view("model=digits-vae-24&tab=latent")
    expect(page.get_by_label("z 21", exact=True)).to_be_hidden()
    page.get_by_text("4 more dimensions").click()
    page.get_by_label("z 24", exact=True).press("End")
    page.get_by_label("z 1", exact=True).press("Home")
    expect(page.locator(".decoded img")).to_have_attribute("src", _decoded(-3, 0))
    page.wait_for_timeout(100)
    assert mood.last("decode")["z"] == [[-3, *[0] * 22, 3]]


def test_an_image_is_encoded_and_a_seed_gives_a_point(view: Open, mood: Mood) -> None:
    page = view("model=digits-vae&tab=latent&seed=5")
    pressed(page, "Encode")  # black: the fake's mean is (−2, −2)
    expect(page.get_by_label("z 1", exact=True)).to_have_value("-2")
    pressed(page, "z ∼ N(0, I)")
    first = page.get_by_label("z 1", exact=True).input_value()
    pressed(page, "z = 0")
    pressed(page, "z ∼ N(0, I)")
    assert page.get_by_label("z 1", exact=True).input_value() == first != "0"


def test_only_models_with_a_latent_space_have_the_tab(view: Open) -> None:
    page = view("model=digits-ddpm&tab=latent")
    expect(page.get_by_role("tab", name="Sample")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Latent")).to_have_count(0)
    page.get_by_label("Model", exact=True).select_option("digits-vae")
    expect(page.get_by_role("tab", name="Latent")).to_be_visible()


def test_a_text_model_draws_fills_and_scores_texts(view: Open, mood: Mood) -> None:
    mood.seconds = 0.1
    page = view("model=verse-absorbing&tab=sample&n=2")
    pressed(page, "Sample")
    expect(page.locator("pre .undecided").first).to_be_visible()  # symbols that are not decided yet
    page.get_by_text("Done.").wait_for()
    expect(page.locator("pre").first).to_have_text(_verse(0))
    page.get_by_role("tab", name="Impute").click()
    text = page.get_by_label("Text (_ marks a missing character)")
    text.fill("shall i compare ____ to a day!")
    expect(
        page.get_by_text("30 of 64 characters · 4 missing · 34 appended as missing · not in the model's alphabet: !")
    ).to_be_visible()
    text.fill("shall i compare ____ to a day")
    pressed(page, "Impute")
    page.get_by_text("Done.").wait_for()
    asked = mood.last("impute")
    assert (asked["text"], asked["hole"], asked["format"]) == ("shall i compare ____ to a day", "_", "json")
    filled = page.locator("pre").first
    verse = _verse(0)
    expect(filled.locator("mark").first).to_have_text(verse[16:20])
    expect(filled.locator("mark").last).to_have_text(verse[29:])
    text.select_text()
    pressed(page, "Mask the selection")
    assert text.input_value() == "_" * 29
    page.get_by_role("tab", name="Score").click()
    pressed(page, "Use a model sample")
    page.get_by_text("64 of 64 characters").wait_for()
    pressed(page, "Score")
    expect(page.get_by_role("status")).to_have_text("2.300 ± 0.021 bits/dim (elbo)")


def test_a_drawn_image_has_the_colours_of_the_model(view: Open, mood: Mood) -> None:
    page = view("model=tiles-sde&tab=score")
    page.get_by_label("Paint colour").fill("#ff8000")
    stroke(page, (4, 4))
    pressed(page, "Score")
    page.get_by_role("listitem").wait_for()
    rgb = np.array(Image.open(io.BytesIO(base64.b64decode(mood.last("score")["images"][0]))).convert("RGB"))
    assert rgb.shape == (32, 32, 3) and {tuple(map(int, pixel)) for pixel in rgb.reshape(-1, 3)} == {
        (0, 0, 0),
        (255, 128, 0),
    }


def _decoded(*z: float) -> str:
    return f"data:image/png;base64,{fake_api.png(fake_api.MODELS['digits-vae'].decode(np.array(z, dtype=float)))}"


def _verse(seed: int) -> str:
    model = fake_api.MODELS["verse-absorbing"]
    return str(model.show(model.sample(seed, 0)))
