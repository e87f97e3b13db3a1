"""Valid and invalid requests generated from the OpenAPI document: it is correct, and no answer has a status 5xx.

The ordinary test sends about 200 requests, the one marked soak 2,000 or the number in GEN_RAY_FUZZ.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from gen_ray.serving.api import build
from gen_ray.serving.settings import ApiKey, ApiSettings
from tests.serving.conftest import KEY
from tests.serving.services import FakeService, fake_services

HEADERS = {"Authorization": f"Bearer {KEY}"}
BOTH = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
LONGEST = 4096


def kinds(services: dict[str, FakeService]) -> Iterator[Any]:
    """Yield a strategy of requests for each combination of operation, model and validity of the body."""
    app = build(services, ApiSettings(keys=(ApiKey.of("anna", KEY),), hosts=("testserver",)))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    for found in schema.get_all_operations():
        operation = found.ok()
        fixed = [{"name": name} for name in services] if "{name}" in operation.path else [None]
        for mode in BOTH if operation.method == "post" else BOTH[:1]:
            for path in fixed:
                yield operation.as_strategy(generation_mode=mode, path_parameters=path, headers=HEADERS)


def fuzz(requests: int) -> Counter[int]:
    """Send about that many requests, check each answer against the document, and return the count by status."""
    statuses: Counter[int] = Counter()
    ways = list(kinds(fake_services()))
    for way in ways:

        @settings(
            max_examples=3 + requests // len(ways),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=way)
        def run(case: Case) -> None:
            response = case.call(headers=HEADERS)
            statuses[response.status_code] += 1
            # the document cannot state that a model lacks a latent space, or which size an image must have;
            # and the library does not treat 413 as a refusal
            excluded = [positive_data_acceptance, *[negative_data_rejection] * (response.status_code == 413)]
            case.validate_response(response, excluded_checks=excluded)
            assert response.status_code < 500
            assert response.status_code < 400 or len(response.content) <= LONGEST

        run()
    return statuses


@pytest.mark.slow
def test_two_hundred_requests() -> None:
    statuses = fuzz(200)
    assert statuses[200] > 10 and statuses[422] > 50, statuses


@pytest.mark.soak
def test_thousands_of_requests() -> None:
    requests = int(os.environ.get("GEN_RAY_FUZZ", "2000"))
    statuses = fuzz(requests)
    assert sum(statuses.values()) > requests / 2, statuses
