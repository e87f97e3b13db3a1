"""The OpenAPI document: its example requests and its published bounds are accepted."""

import pytest
from starlette.testclient import TestClient

from gen_ray.dataspec import DataSpec
from gen_ray.serving.api import build
from gen_ray.serving.settings import ApiSettings
from gen_ray.serving.verbs import VERBS
from tests import tabular_joint
from tests.serving.services import COLOUR, DIGITS, FakeService, card

TABLE = tabular_joint.spec()
VERSE = DataSpec(name="verse", kind="tokens", shape=(32,), levels=8, alphabet="T beonrt")


@pytest.fixture
def open_http() -> TestClient:
    specs = {"digits": DIGITS, "colour": COLOUR, "verse": VERSE, "table": TABLE}
    services = {name: FakeService(card(name, spec, latent_dim=8)) for name, spec in specs.items()}
    return TestClient(build(services, ApiSettings()), base_url="http://localhost:8000")


@pytest.mark.parametrize(("verb", "name"), [(verb.name, name) for verb in VERBS.values() for name in verb.examples])
def test_an_unchanged_example_is_accepted(open_http: TestClient, verb: str, name: str) -> None:
    for model in {"text": ["verse"], "table": ["table"]}.get(name, ["digits", "colour"]):
        response = open_http.post(f"/v1/models/{model}/{verb}", json=VERBS[verb].examples[name]["value"])
        assert response.status_code == 200, response.text


def test_the_document_has_an_example_and_json_first_for_every_verb(open_http: TestClient) -> None:
    paths = open_http.get("/openapi.json").json()["paths"]
    verbs = [path.rpartition("/")[2] for path, item in paths.items() if "post" in item]
    assert sorted(verbs) == sorted(VERBS)
    for verb in verbs:
        content = paths[f"/v1/models/{{name}}/{verb}"]["post"]["requestBody"]["content"]["application/json"]
        assert content["examples"] == VERBS[verb].examples
        answers = paths[f"/v1/models/{{name}}/{verb}"]["post"]["responses"]["200"]["content"]
        assert next(iter(answers)) == "application/json" and "$ref" in answers["application/json"]["schema"]


def test_the_published_maximum_of_a_seed_is_accepted(open_http: TestClient) -> None:
    schemas = open_http.get("/openapi.json").json()["components"]["schemas"]
    most = next(kind["maximum"] for kind in schemas["SampleBody"]["properties"]["seed"]["anyOf"] if "maximum" in kind)
    assert open_http.post("/v1/models/digits/sample", json={"seed": int(most)}).json()["seed"] == int(most)
    assert open_http.post("/v1/models/digits/sample", json={"seed": 2**63 - 1}).status_code == 200
