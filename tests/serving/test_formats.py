"""Input and output formats of the API for every verb and every kind of data."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from gen_ray.serving.service import JobResult
from tests.serving.conftest import Ask
from tests.serving.services import COLOUR, DIGITS, FakeService


def png(pixels: np.ndarray, form: str = "PNG") -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def refused(response: Any, status: int) -> str:
    body = response.json()
    assert response.status_code == status, body
    assert set(body) == {"code", "message", "request_id"} and "\n" not in body["message"]
    return body["message"]


def test_the_list_of_models_has_the_verbs_of_each(http: TestClient) -> None:
    data = http.get("/v1/models").json()["data"]
    assert [card["id"] for card in data] == ["digits", "colour", "text", "tokens"]
    assert data[0]["data"] == {"name": "digits", "kind": "image", "shape": [1, 8, 8], "levels": 17, "alphabet": ""}
    assert data[0]["curve"][0]["nfe"] == 3 and list(data[0]["samplers"]) == ["ddim", "ancestral"]
    assert http.get("/v1/models/text").json() == data[2]
    assert "did you mean 'digits'?" in refused(http.get("/v1/models/digit"), 404)


def test_json_has_the_seed_and_the_seed_reproduces_the_samples(ask: Ask) -> None:
    first = ask("digits", "sample", n=3).json()
    assert np.shape(first["samples"]) == (3, 1, 8, 8) and 0 <= first["seed"] < 2**53
    assert {"model": "digits", "version": "7", "sampler": "ddim", "steps": 10, "nfe": 30}.items() <= first.items()
    assert first["seconds"] == {"queued": 0.0, "computed": 0.5}
    again = ask("digits", "sample", n=3, seed=first["seed"]).json()
    assert again["samples"] == first["samples"] and again["request_id"] != first["request_id"]


def test_a_body_may_be_left_out(http: TestClient) -> None:
    assert len(http.post("/v1/models/digits/sample").json()["samples"]) == 1


@pytest.mark.parametrize(("model", "spec"), [("digits", DIGITS), ("colour", COLOUR)])
def test_every_format_holds_the_same_samples(ask: Ask, model: str, spec: Any) -> None:
    samples = np.array(ask(model, "sample", n=4, seed=5).json()["samples"])
    drawn = [pixels(text) for text in ask(model, "sample", n=4, seed=5, format="png").json()["samples"]]
    grey = np.rint(samples * (255 / (spec.levels - 1))).astype(np.uint8)
    np.testing.assert_array_equal(np.stack(drawn), grey[:, 0] if model == "digits" else grey.transpose(0, 2, 3, 1))
    response = ask(model, "sample", n=4, seed=5, format="npz")
    np.testing.assert_array_equal(np.load(io.BytesIO(response.content))["samples"], samples)
    facts = {"model": model, "version": "7", "sampler": "ddim", "nfe": "40", "seed": "5", "queued-seconds": "0.0"}
    assert {name: response.headers[f"x-genray-{name}"] for name in facts} == facts
    assert response.content == ask(model, "sample", n=4, seed=5, format="npz").content
    grid = ask(model, "sample", n=4, seed=5, format="grid")
    assert grid.headers["content-type"] == "image/png" and Image.open(io.BytesIO(grid.content)).mode == "RGB"


def test_texts_are_decoded(ask: Ask) -> None:
    [text] = ask("text", "sample", seed=1).json()["samples"]
    assert len(text) == 12 and set(text) <= set("abc ")
    page = ask("text", "sample", seed=1, format="text")
    assert page.headers["content-type"].startswith("text/plain") and page.text == f"----- 0\n{text}\n"
    assert list(np.load(io.BytesIO(ask("text", "sample", seed=1, format="npz").content))["texts"]) == [text]


@pytest.mark.parametrize(
    ("model", "form"),
    [("digits", "text"), ("text", "png"), ("text", "grid"), ("tokens", "text"), ("tokens", "png"), ("digits", "gif")],
)
def test_a_format_unsuitable_for_the_data_is_refused(ask: Ask, model: str, form: str) -> None:
    assert refused(ask(model, "sample", format=form), 422).startswith("format: ")


def test_an_image_is_read_back_unchanged(ask: Ask, services: dict[str, FakeService]) -> None:
    [text] = ask("digits", "sample", seed=3, format="png").json()["samples"]
    samples = ask("digits", "sample", seed=3).json()["samples"]
    assert ask("digits", "reconstruct", images=[text]).json()["samples"] == samples
    assert ask("digits", "reconstruct", x=samples).json()["samples"] == samples
    assert services["digits"].jobs[-1].x.dtype == np.uint8  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP"])
def test_images_of_another_size_are_scaled_only_on_request(ask: Ask, form: str) -> None:
    picture = png(np.full((20, 10, 3), 255, np.uint8), form)
    message = refused(ask("digits", "score", images=[picture]), 422)
    assert "10 x 20 pixels" in message and "8 x 8" in message and "resize: true" in message
    scored = ask("digits", "reconstruct", images=[picture], resize=True).json()
    assert np.array(scored["samples"]).min() == 16


def test_missing_values_are_white_or_one_and_the_rest_is_kept(ask: Ask, services: dict[str, FakeService]) -> None:
    x, mask = np.random.default_rng(0).integers(0, 17, (8, 8)), np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    drawn = ask("digits", "impute", n=3, seed=1, x=x.tolist(), mask=png(mask)).json()
    listed = ask("digits", "impute", n=3, seed=1, x=[x.tolist()], mask=(mask > 0).tolist()).json()
    assert drawn["samples"] == listed["samples"] and np.shape(drawn["samples"]) == (3, 1, 8, 8)
    assert all((np.array(sample)[0, 4:] == x[4:]).all() for sample in drawn["samples"])
    np.testing.assert_array_equal(services["digits"].jobs[0].mask, (mask == 0)[None, None])
    assert "nothing is missing" in refused(ask("digits", "impute", x=x.tolist(), mask=[[0] * 8] * 8), 422)


def test_missing_values_in_texts_are_a_character(ask: Ask) -> None:
    [text] = ask("text", "impute", text="ab_c", seed=2).json()["samples"]
    assert text[:2] == "ab" and text[3] == "c" and len(text) == 12
    assert "alphabet" in refused(ask("text", "impute", text="abc", hole="a"), 422)
    assert "1 characters" in refused(ask("text", "impute", text="abZ_"), 422)
    assert "13 characters" in refused(ask("text", "impute", text="_" * 13), 422)


def test_scores_and_latents_are_numbers(ask: Ask) -> None:
    score = ask("text", "score", texts=["abc abc abc ", "aaaaaaaaaaaa"], effort=4).json()
    assert len(score["bits_per_dim"]) == len(score["standard_error"]) == 2 and score["notes"] == {"kind": "vlb"}
    assert "samples" not in score
    latent = np.load(io.BytesIO(ask("tokens", "encode", x=[[1, 2, 3, 4, 5, 299]], format="npz").content))
    assert latent["mu"].shape == latent["log_var"].shape == (1, 2)
    assert np.shape(ask("colour", "decode", z=[[0.5, 1], [2, 3]]).json()["samples"]) == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("verb", "fields", "named"),
    [
        ("sample", {"sampler": "dddim"}, "did you mean 'ddim'?"),
        ("sample", {"sampler": "repaint"}, "known: ancestral, ddim"),
        ("sample", {"n": 65}, "n: at most 64"),
        ("sample", {"steps": 1001}, "steps: at most 1000"),
        ("sample", {"quality": "fast", "steps": 3}, "give either quality, or"),
        ("sample", {"previews": 3}, "stream: true"),
        ("sample", {"stream": True, "format": "npz"}, "json or png"),
        ("sample", {"sed": 3}, "did you mean 'seed'?"),
        ("sample", {"deadline_seconds": 601}, "deadline_seconds: at most 600"),
        ("sample", {"n": True}, "n: "),
        ("impute", {"x": [[0]], "image": "QUFB", "mask": [[1]]}, "exactly one of"),
        ("impute", {"x": [[0]]}, "give a mask with"),
        ("impute", {"x": [[[0] * 8] * 8], "mask": [[1] * 8] * 8, "quality": "fast"}, "has a key that is not known"),
        ("sample", {"format": "text"}, "ask for json, png, grid or npz"),
        ("impute", {"x": [[0]], "mask": [[1]]}, "x: must be nested lists of shape (1, 8, 8)"),
        ("score", {"x": [[[17] * 8] * 8]}, "whole numbers from 0 to 16"),
        ("score", {"x": [[[0.5] * 8] * 8]}, "whole numbers"),
        ("score", {"x": [[[False] * 8] * 8]}, "whole numbers"),
        ("score", {"x": [[1], [1, 2]]}, "x: must be nested lists"),
        ("score", {"texts": ["ab"]}, "data are not texts"),
        ("score", {}, "exactly one of"),
        ("decode", {"z": [[1.0]]}, "lists of 2 numbers"),
        ("encode", {"x": [[[0] * 8] * 8], "format": "png"}, "'json' or 'npz'"),
    ],
)
def test_an_impossible_request_is_refused_with_field_and_remedy(
    ask: Ask, services: dict[str, FakeService], verb: str, fields: dict[str, Any], named: str
) -> None:
    assert named in refused(ask("digits", verb, **fields), 422)
    assert not services["digits"].jobs


def test_a_verb_that_the_model_lacks_is_refused(ask: Ask, services: dict[str, FakeService]) -> None:
    from tests.serving.services import card

    services["digits"].model_card = card("digits", DIGITS, verbs=("sample", "score"), quality={})
    assert "supported: sample, score" in refused(ask("digits", "decode", z=[[1, 2]]), 422)
    assert "no curve" in refused(ask("digits", "sample", quality="fast"), 422)


@pytest.mark.parametrize("form", ["json", "png", "npz", "grid"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 17])
def test_samples_that_are_not_finite_are_never_sent(
    ask: Ask, services: dict[str, FakeService], form: str, value: float
) -> None:
    def change_result(answer: JobResult) -> JobResult:
        samples = answer.arrays["samples"].astype(float)
        samples[0, 0, 0, 0] = value
        return JobResult(**{**vars(answer), "arrays": {"samples": samples}})

    services["digits"].change_result = change_result
    response = ask("digits", "sample", format=form)
    refused(response, 500)
    assert response.json()["code"] == "not_finite"


def test_a_score_that_is_not_a_number_is_an_error(ask: Ask, services: dict[str, FakeService]) -> None:
    services["text"].change_result = lambda answer: JobResult(
        **{**vars(answer), "arrays": {"bits_per_dim": np.array([np.nan]), "standard_error": np.array([0.0])}}
    )
    assert ask("text", "score", texts=["a" * 12]).json()["code"] == "not_finite"
