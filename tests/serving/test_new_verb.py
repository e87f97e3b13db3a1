"""Adding a verb takes its function and one declaration: its route, card, checks and documentation follow."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.batcher import OnPreview
from gen_ray.serving.api import build
from gen_ray.serving.jobs import PendingJob
from gen_ray.serving.loaded_model import LoadedModel
from gen_ray.serving.local_service import LocalModelService
from gen_ray.serving.result_schemas import ResultSchema
from gen_ray.serving.schemas import InstancesBody, Numbers
from gen_ray.serving.service import ServingJob
from gen_ray.serving.settings import ApiSettings
from gen_ray.serving.verbs import VERBS, Verb, supported_verbs
from gen_ray.tracking.sources import FolderSource
from tests.engine.tiny_models import CPU, model


class BrightnessBody(InstancesBody):
    """Measure the mean of instances."""

    format: Numbers = "json"


class BrightnessSchema(ResultSchema):
    brightness: list[float]


def submit_brightness(loaded: LoadedModel, job: ServingJob, deadline: float, watch: OnPreview | None) -> PendingJob:
    assert job.x is not None
    means = job.x.mean((1, 2, 3))
    handle = loaded.batcher.submit_callable(lambda net: means, len(means), deadline=deadline, key=job.key)
    return PendingJob(handle=handle, arrays=lambda found: {"brightness": found})


BRIGHTNESS = Verb(
    name="brightness",
    description="Measure the mean of instances.",
    body=BrightnessBody,
    result=BrightnessSchema,
    submit=submit_brightness,
    examples={"lists": {"summary": "One image", "value": {"x": [[[1] * 4] * 4]}}},
)


def test_a_declared_verb_has_a_route_a_place_in_the_card_and_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ddpm = model("ddpm")
    before = supported_verbs(ddpm.family)
    monkeypatch.setitem(VERBS, "brightness", BRIGHTNESS)
    artifact.write(tmp_path / "toy", ddpm)
    service = LocalModelService("toy", FolderSource(tmp_path / "toy"), device=CPU)
    with TestClient(build({"toy": service}, ApiSettings()), base_url="http://localhost:8000") as http:
        assert http.portal is not None
        http.portal.call(service.open)
        assert http.get("/v1/models/toy").json()["verbs"] == [*before, "brightness"]
        post = http.get("/openapi.json").json()["paths"]["/v1/models/{name}/brightness"]["post"]
        json = post["requestBody"]["content"]["application/json"]
        found = http.post("/v1/models/toy/brightness", json=json["examples"]["lists"]["value"])
        assert (found.status_code, found.json()["brightness"]) == (200, [1.0])
        assert json["schema"] == {"$ref": "#/components/schemas/BrightnessBody"}
        assert set(post["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
        wrong = http.post("/v1/models/toy/brightness", json={"x": [[[17] * 4] * 4], "format": "npz"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")
        http.portal.call(service.close)
