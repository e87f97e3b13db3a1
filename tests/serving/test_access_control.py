"""Access control: every route with every method, from every kind of host and origin, with every kind of key."""

import json
import logging
from collections.abc import Iterable, Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from gen_ray.errors import UserError
from gen_ray.serving.api import build, static_files
from gen_ray.serving.middleware import HEALTH
from gen_ray.serving.settings import ApiSettings, from_environment, host_names, keys
from tests.serving.conftest import KEY, Ask
from tests.serving.services import FakeService

OPEN = {*HEALTH, *static_files(), "/docs", "/docs/swagger-ui-bundle.js", "/openapi.json"}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
WRONG: list[dict[str, str | bytes]] = [
    {},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": KEY},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": "Bearer "},
    {"Authorization": b"Bearer \xe9\xff"},
    {"X-API-Key": KEY},
]


def paths(routes: Iterable[object], prefix: str = "") -> Iterator[str]:
    """Yield the path of every route, including those of included routers."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from paths(inner.routes, prefix + route.include_context.prefix)  # type: ignore[attr-defined]
        else:
            yield prefix + route.path  # type: ignore[attr-defined]


@pytest.fixture
def without_key(services: dict[str, FakeService], settings: ApiSettings) -> TestClient:
    return TestClient(build(services, settings), base_url="http://localhost")


@pytest.mark.slow
def test_every_route_under_every_method_needs_a_key(without_key: TestClient, services: dict[str, FakeService]) -> None:
    app = without_key.app
    assert isinstance(app, FastAPI)
    listed = sorted(set(paths(app.routes)))
    assert {"/docs", "/openapi.json", "/v1/models", "/v1/models/{name}", "/v1/models/{name}/sample"} <= set(listed)
    tried = 0
    for path in [*listed, "/nothing", "//healthz/live", "/healthz/live/", "/healthz/../v1/models", "/healthz/live%2f"]:
        for method in METHODS:
            opened = path in OPEN and method in ("GET", "HEAD", "OPTIONS")
            for headers in WRONG:
                response = without_key.request(method, path.replace("{name}", "digits"), headers=headers)  # type: ignore[arg-type]
                assert (response.status_code == 401) is not opened, (method, path, headers)
                tried += 1
            if not opened:
                assert response.headers["www-authenticate"] == "Bearer"
    assert tried > 1000 and not any(service.jobs for service in services.values())


def test_a_route_added_later_needs_a_key(without_key: TestClient) -> None:
    assert isinstance(without_key.app, FastAPI)
    without_key.app.add_api_route("/secret", lambda: "told")
    assert without_key.get("/secret").status_code == 401
    assert without_key.get("/secret", headers={"Authorization": f"bearer {KEY}"}).json() == "told"


def test_the_api_document_is_open_and_loads_nothing_from_other_hosts(without_key: TestClient) -> None:
    response = without_key.get("/docs")
    assert response.status_code == 200 and "://" not in response.text
    assert "default-src 'self'" in response.headers["content-security-policy"]
    for file in ("docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "docs/swagger.js", "icon.svg", "openapi.json"):
        assert file == "openapi.json" or file in response.text
        found = without_key.get(f"/{file}")
        assert found.status_code == 200 and found.content
    assert "SwaggerUIBundle" in without_key.get("/docs/swagger.js").text
    assert without_key.get("/redoc").status_code == 401


@pytest.mark.parametrize("headers", WRONG)
def test_a_wrong_key_is_distinguished_from_a_missing_one(
    without_key: TestClient, headers: dict[str, str | bytes]
) -> None:
    sent = headers.get("Authorization", "")
    scheme, _, secret = (sent if isinstance(sent, bytes) else sent.encode()).partition(b" ")
    message = without_key.get("/v1/models", headers=headers).json()["message"]  # type: ignore[arg-type]
    assert ("is not known" in message) is (scheme == b"Bearer" and bool(secret.strip())), message
    assert "send Authorization: Bearer KEY" in message


def test_two_keys_in_one_request_are_refused(without_key: TestClient) -> None:
    twice = [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")]
    assert without_key.get("/v1/models", headers=twice).status_code == 401


def test_without_configured_keys_no_key_is_needed(services: dict[str, FakeService]) -> None:
    client = TestClient(build(services, ApiSettings()), base_url="http://127.0.0.1:8000")
    assert client.get("/v1/models").status_code == 200


def test_the_page_is_open_and_has_a_content_security_policy(without_key: TestClient) -> None:
    response = without_key.get("/")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "LOCALHOST:80"])
def test_requests_to_known_host_names_are_accepted(http: TestClient, host: str) -> None:
    assert http.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "127.0.0.1.nip.io",
        "[::2]",
        "localhost:",
        "",
        "a b",
    ],
)
def test_other_host_names_are_refused_even_with_a_key(http: TestClient, host: str) -> None:
    for path in ("/v1/models", "/", "/docs"):
        response = http.get(path, headers={"Host": host})
        assert response.status_code == 421 and "evil" not in response.text
    assert http.get("/healthz/live", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("allowed", "host", "known"),
    [
        ("Models.Example.org", "models.example.org", True),
        ("models.example.org", "MODELS.example.ORG:8000", True),
        (" models.example.org. ", "models.example.org.", True),
        ("models.example.org:8443", "models.example.org:8443", True),
        ("models.example.org:8443", "models.example.org:8000", False),
        ("models.example.org:8443", "models.example.org", False),
        ("models.example.org:443", "models.example.org", True),
        ("::1", "[::1]:8000", True),
        ("[FE80::1]", "[fe80::1]", True),
        ("10.0.0.7", "10.0.0.7:8000", True),
        ("10.0.0.7:80", "10.0.0.7:8000", False),
        ("münchen.example", "xn--mnchen-3ya.example", True),
        ("example.org", "models.example.org", False),
    ],
)
def test_an_allowed_host_is_compared_as_browsers_send_it(
    services: dict[str, FakeService], allowed: str, host: str, known: bool
) -> None:
    for given in (from_environment({"GEN_RAY_ALLOWED_HOSTS": allowed}), ApiSettings(hosts=(allowed,))):
        client = TestClient(build(services, given), base_url="http://localhost")
        assert (client.get("/v1/models", headers={"Host": host}).status_code == 200) is known


@pytest.mark.parametrize(
    "value", ["https://models.example.org", "a b", "models.example.org/", "*", "a:b", "x:123456", ""]
)
def test_an_invalid_host_is_named(value: str) -> None:
    with pytest.raises(UserError, match=r"--allow-host .*: must be a host such as"):
        host_names([value], "--allow-host")


def test_headers_have_a_limit(http: TestClient) -> None:
    for length, status in ((30_000, 200), (33_000, 431)):
        assert http.get("/healthz/live", headers={"X-Long": "a" * length}).status_code == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9999", "http://[", "file://"])
def test_pages_of_other_origins_change_nothing(http: TestClient, services: dict[str, FakeService], origin: str) -> None:
    response = http.post("/v1/models/digits/sample", json={}, headers={"Origin": origin})
    assert response.status_code == 403 and not services["digits"].jobs
    read = http.get("/v1/models", headers={"Origin": origin})
    assert not [name for name in read.headers if name.startswith("access-control")]
    preflight = http.options("/v1/models/digits/sample", headers={"Origin": origin})
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_the_own_origin_and_allowed_origins_may_send_requests(services: dict[str, FakeService]) -> None:
    app = build(services, ApiSettings(origins=("https://lab.example",)))
    client = TestClient(app, base_url="http://localhost:8000")
    for origin in ("http://localhost:8000", "https://lab.example"):
        assert client.post("/v1/models/digits/sample", headers={"Origin": origin}).status_code == 200


def test_keys_are_read_from_the_environment_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    environment = {"GEN_RAY_API_KEYS": f" anna:{KEY}, bert:with:colon:0123456789", "GEN_RAY_ALLOWED_HOSTS": "Box,"}
    settings = from_environment(environment, body_bytes=10)
    assert [key.name for key in settings.keys] == ["anna", "bert"] and settings.body_bytes == 10
    assert settings.hosts == ("localhost", "127.0.0.1", "[::1]", "box")
    assert KEY not in repr(settings) + str(settings) + repr(settings.keys) + repr(settings.model_dump())
    assert repr(settings.keys[0].digest) not in repr(settings)
    assert from_environment({}).keys == () == keys("  ")


@pytest.mark.parametrize(
    "listed",
    ["secret-secret-secret", "a:short", f"a b:{KEY}", f":{KEY}", f"a:{KEY},", f"a:{KEY},a:{KEY}", f"a:{KEY} {KEY}"],
)
def test_malformed_keys_name_the_variable_and_not_the_key(listed: str) -> None:
    with pytest.raises(UserError, match=r"^GEN_RAY_API_KEYS: ") as fault:
        keys(listed)
    assert KEY not in str(fault.value) and "secret" not in str(fault.value) and "short" not in str(fault.value)


def test_every_response_has_its_request_id_and_is_not_cached(http: TestClient, without_key: TestClient) -> None:
    for response in (
        http.get("/v1/models", headers={"X-Request-ID": "my.id-1_A"}),
        http.get("/nothing", headers={"X-Request-ID": "my.id-1_A"}),
        without_key.get("/v1/models", headers={"X-Request-ID": "my.id-1_A"}),
        without_key.get("/healthz/live", headers={"X-Request-ID": "my.id-1_A"}),
        http.get("/", headers={"X-Request-ID": "my.id-1_A"}),
    ):
        assert response.headers.get_list("x-request-id") == ["my.id-1_A"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
    for strange in ("a" * 65, "a b", "<script>", ""):
        assert http.get("/v1/models", headers={"X-Request-ID": strange}).headers["x-request-id"] != strange


def test_the_log_has_one_line_per_request_without_keys_and_bodies(
    ask: Ask, http: TestClient, without_key: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="gen_ray.access"):
        answered = ask("digits", "sample", n=2, seed=77)
        http.get("/v1/models/MARKER")
        http.get("/MARKER%0d%0a{}")
        without_key.get("/v1/models", headers={"Authorization": "Bearer MARKERMARKERMARKER"})
        http.request("MARKER", "/v1/models")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "gen_ray.access"]
    assert len(lines) == 5 and "MARKER" not in caplog.text and KEY not in caplog.text
    first = lines[0]
    assert first.pop("ms") >= 0 and first.pop("time").endswith("+00:00")
    assert first == {
        "request_id": answered.headers["x-request-id"], "key": "anna", "method": "POST",
        "path": "/v1/models/{name}/sample", "status": 200, "model": "digits", "version": "7", "seed": 77, "nfe": 20,
        "bytes_out": len(answered.content),
    }  # fmt: skip
    assert [(line["status"], line["key"], line["path"]) for line in lines[1:4]] == [
        (404, "anna", "/v1/models/{name}"), (404, "anna", "-"), (401, "-", "-"),
    ]  # fmt: skip


def test_health_is_open_and_ready_waits_for_every_model(
    without_key: TestClient, services: dict[str, FakeService], settings: ApiSettings
) -> None:
    from dataclasses import replace

    assert without_key.get("/healthz/ready").json() == {"status": "ready"}
    services["text"].model_card = replace(services["text"].model_card, ready=False, trouble="loading")
    assert without_key.get("/healthz/ready").status_code == 503 and without_key.get("/healthz/live").status_code == 200
    assert TestClient(build({}, settings)).get("/healthz/ready").status_code == 503
    listed = without_key.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert [card["ready"] for card in listed] == [True, True, False, True] and listed[2]["trouble"] == "loading"
    refusal = without_key.post("/v1/models/text/sample", headers={"Authorization": f"Bearer {KEY}"})
    assert (refusal.status_code, refusal.json()["code"]) == (503, "unavailable")


def test_models_may_come_and_go_and_a_silent_one_hides_no_other(services: dict[str, FakeService]) -> None:
    class Silent(FakeService):
        async def card(self) -> object:  # type: ignore[override]
            raise RuntimeError("replica died")

    served = dict(services)
    client = TestClient(build(lambda: served, ApiSettings()), base_url="http://localhost")
    served["gone"] = Silent(services["text"].model_card)
    del served["digits"]
    listed = client.get("/v1/models").json()["data"]
    assert [card["id"] for card in listed] == ["colour", "text", "tokens", "gone"]
    assert listed[-1] == {"id": "gone", "ready": False, "trouble": "the model does not answer"}
    assert client.get("/v1/models/gone").json()["code"] == "internal"
    assert client.get("/healthz/ready").status_code == 503
