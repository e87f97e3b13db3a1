"""Limits of nested input, applied before validation and conversion: small requests use little memory and time."""

import json
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from gen_ray.serving.service import JobResult
from tests.serving.conftest import Ask
from tests.serving.services import FakeService

SIZE = 100_000
"""Bytes of a request in which one long text stands beside many short ones."""
MIXED = ["a" * (SIZE // 2), *["b"] * (SIZE // 8)]
DIGIT = [[0] * 8 for _ in range(8)]
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "score x": ("score", {"x": MIXED}),
    "score x in rows": ("score", {"x": [[MIXED] * 1]}),
    "encode x": ("encode", {"x": [[row] for row in MIXED]}),
    "reconstruct x": ("reconstruct", {"x": [*MIXED, 0]}),
    "impute x": ("impute", {"x": [MIXED], "mask": DIGIT}),
    "impute mask": ("impute", {"x": DIGIT, "mask": MIXED}),
    "impute mask in rows": ("impute", {"x": DIGIT, "mask": [MIXED, MIXED[1:]]}),
    "decode z": ("decode", {"z": MIXED}),
    "decode z in rows": ("decode", {"z": [MIXED]}),
    "score texts": ("score", {"texts": MIXED}),
    "score images": ("score", {"images": MIXED}),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_small_request_uses_little_memory(ask: Ask, services: dict[str, FakeService], name: str) -> None:
    verb, fields = FIELDS[name]
    model = "text" if "texts" in fields else "digits"
    ask(model, verb, **fields)  # imports and caches of the first request do not count
    tracemalloc.start()
    try:
        response = ask(model, verb, **fields)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.status_code == 422 and not services[model].jobs
    assert peak < 60 * SIZE, f"{peak / 2**20:.0f} MiB"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("decode", {"z": [["x"] * 2] * 90_000}),
        ("decode", {"z": [[9999999]] * 90_000}),
        ("decode", {"z": ["x"] * 250_000}),
        ("decode", {"z": [["x"] * 250_000]}),
        ("score", {"x": [[[None] * 8] * 8] * 2_000}),
        ("score", {"images": [""] * 250_000}),
        ("score", {"texts": [1] * 400_000}),
        ("impute", {"x": DIGIT, "mask": [None] * 150_000}),
        ("sample", {str(key): key for key in range(60_000)}),
    ],
)
def test_a_mebibyte_of_errors_is_refused_quickly(ask: Ask, verb: str, fields: dict[str, Any]) -> None:
    assert len(json.dumps(fields, separators=(",", ":"))) < 2**20
    seconds = []
    for _ in range(3):  # three tries, because other threads of this process also take time
        started = time.process_time()
        response = ask("digits", verb, **fields)
        seconds.append(time.process_time() - started)
        assert response.status_code in (413, 422) and len(response.content) < 1000
    assert min(seconds) < 0.8


def test_too_many_instances_are_refused_before_they_are_decoded(ask: Ask) -> None:
    for verb, fields in (
        ("score", {"x": [DIGIT] * 65}),
        ("encode", {"images": ["QUJD"] * 65}),
        ("decode", {"z": [[0, 0]] * 65}),
    ):
        response = ask("digits", verb, **fields)
        assert (response.status_code, response.json()["code"]) == (422, "too_much")


def _starved(answer: JobResult) -> JobResult:
    raise MemoryError


def test_too_little_memory_is_413_and_not_a_server_error(ask: Ask, services: dict[str, FakeService]) -> None:
    services["digits"].change_result = _starved
    response = ask("digits", "sample")
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    events = ask("digits", "sample", stream=True).text
    assert '"status":413' in events and "event: error" in events


def test_an_answer_in_json_has_a_limit(ask: Ask, services: dict[str, FakeService]) -> None:
    card = services["digits"].model_card
    large = card.spec.model_copy(update={"shape": (1, 512, 512)})
    services["digits"].model_card = replace(card, spec=large)
    response = ask("digits", "sample", n=64)
    assert response.status_code == 422 and "ask for npz" in response.json()["message"]
    assert ask("digits", "sample", n=1, format="npz").status_code == 200
