"""Messages on requests that break a limit of a field: one plain line, without pydantic's words."""

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from gen_ray.serving.schemas import MAX_ITEMS
from gen_ray.serving.verbs import VERBS
from tests.serving.conftest import Ask

FOREIGN = re.compile(
    r"input|should|valid|instance of|dictionary|after|string|integer|boolean|extra|error", re.IGNORECASE
)
"""Words of pydantic's own messages."""
VALUES: list[Any] = [None, True, -1, 0, 1.5, 10**30, "", "secret" * 20, "secret" * 200_000, [], [1], ["", 1],
                     [{}] * (MAX_ITEMS + 1), ["secret"] * (MAX_ITEMS + 1), {}, {"secret": 1}]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_no_value_of_a_field_gives_words_of_the_validator(ask: Ask, verb: str) -> None:
    for name in VERBS[verb].body.model_fields:
        for value in VALUES:
            response = ask("digits", verb, **{name: value})
            if response.status_code == 200:
                continue
            message = response.json()["message"]
            assert response.status_code in (413, 422) and not FOREIGN.search(message), (name, value, message)
            assert "secret" not in message and len(message) < 300


@pytest.mark.parametrize(
    ("verb", "fields", "message"),
    [
        ("impute", {"rows": []}, "rows: must not be empty"),
        ("score", {"rows": [{}] * (MAX_ITEMS + 1)}, "rows: must have at most 4,096 items"),
        ("score", {"rows": {"age": 1}}, "rows: must be a list"),
        ("score", {"csv": ""}, "csv: must not be empty"),
        ("score", {"texts": ["a", 1]}, "texts.1: must be a text"),
        ("score", {"effort": 0, "rows": [{}]}, "effort: must be at least 1"),
        ("sample", {"n": 0}, "n: must be at least 1"),
        ("sample", {"n": 10**6}, "n: must be at most 4,096"),
        ("sample", {"n": "4"}, "n: must be a whole number"),
        ("sample", {"n": 1, "nn": 2}, "the body: has a key that is not known; did you mean 'n'?"),
        ("sample", {"seed": -1, "steps": 0}, "seed: must be at least 0 (and 1 more)"),
        ("sample", {"stream": 1}, "stream: must be true or false"),
        ("sample", {"format": "gif"}, "format: must be 'json', 'png', 'npz', 'grid', 'text' or 'csv'"),
        ("sample", {"sampler": "a b"}, "sampler: must be of the form NAME or NAME:option=value"),
        ("sample", {"where": {}}, "where: must not be empty"),
        ("sample", {"where": [1]}, "where: must be an object"),
        ("sample", {"deadline_seconds": 0}, "deadline_seconds: must be at least 0.001"),
        ("sample", {"deadline_seconds": 1e9}, "deadline_seconds: must be at most 86400"),
        ("sample", {"deadline_seconds": "soon"}, "deadline_seconds: must be a number"),
        ("impute", {"text": "a_", "hole": "__"}, "hole: must have at most 1 character"),
        ("impute", {"x": [1], "mask": 3}, "mask: must be a text, or a list"),
        ("decode", {}, "z: is required"),
    ],
)
def test_a_message_names_the_field_and_its_limit(ask: Ask, verb: str, fields: dict[str, Any], message: str) -> None:
    response = ask("digits", verb, **fields)
    assert response.status_code == 422 and response.json()["message"].startswith(message), response.text


def test_a_body_that_is_not_an_object(http: TestClient) -> None:
    response = http.post("/v1/models/digits/sample", json=[1])
    assert response.json()["message"] == "the body: must be an object"
