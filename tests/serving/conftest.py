"""Fixtures of the serving tests: the API over fake model services, called in this process with a key."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from httpx2 import Response
from starlette.testclient import TestClient

from gen_ray.serving.api import build
from gen_ray.serving.settings import ApiKey, ApiSettings
from tests.serving.services import FakeService, fake_services

KEY = "correct-horse-battery-staple"
Ask = Callable[..., Response]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def services() -> dict[str, FakeService]:
    return fake_services()


@pytest.fixture
def settings() -> ApiSettings:
    return ApiSettings(
        keys=(ApiKey.of("anna", KEY), ApiKey.of("bert", "another-key-of-sixteen")), keep_alive_seconds=0.05
    )


@pytest.fixture
def http(services: dict[str, FakeService], settings: ApiSettings) -> Iterator[TestClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with TestClient(build(services, settings), base_url="http://localhost:8000", headers=headers) as client:
        yield client


@pytest.fixture
def ask(http: TestClient) -> Ask:
    """Return a function of model, verb and body fields that returns the response."""

    def ask(model: str, verb: str, **fields: Any) -> Response:
        return http.post(f"/v1/models/{model}/{verb}", json=fields)

    return ask
