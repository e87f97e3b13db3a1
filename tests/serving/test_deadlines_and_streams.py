"""Deadlines, disconnects, late errors and streams; tests that measure time use a plain ASGI harness."""

import asyncio
import base64
import io
import json
import logging
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from gen_ray.serving.api import build
from gen_ray.serving.service import ErrorReply, RequestRefusedError
from gen_ray.serving.settings import ApiSettings
from tests.serving.conftest import Ask
from tests.serving.services import FakeService

BUSY = ErrorReply(status=429, code="busy", message="the queue is full", retry_after_seconds=2.2)


class AsgiRequest:
    """One ASGI request: records each message with its time; the client disconnects when the test sets hung_up."""

    def __init__(self, app: Any, body: dict[str, object], *, model: str = "digits", verb: str = "sample") -> None:
        self.app, self.sent, self.hung_up = app, [], asyncio.Event()  # type: ignore[var-annotated]
        self.body: bytes | None = json.dumps(body).encode()
        self.scope = {
            "type": "http", "method": "POST", "path": f"/v1/models/{model}/{verb}", "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"x-request-id", b"me")],
        }  # fmt: skip

    async def receive(self) -> dict[str, object]:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append((time.monotonic(), message))

    async def run(self) -> None:
        await self.app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return self.sent[0][1]["status"]

    @property
    def bytes(self) -> bytes:
        return b"".join(message.get("body", b"") for _, message in self.sent[1:])


def run(work: Coroutine[Any, Any, None]) -> float:
    """Run the work and return its duration in seconds."""
    started = time.monotonic()
    asyncio.run(work)
    return time.monotonic() - started


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    lines = [block.split("\n") for block in blocks]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


@pytest.fixture
def app(services: dict[str, FakeService]) -> Any:
    return build(services, ApiSettings(keep_alive_seconds=0.05))


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("headers", [
    {}, {"x-request-timeout-seconds": "0"}, {"x-request-timeout-seconds": "1e9"}, {"x-request-timeout-seconds": "nan"},
    {"x-request-disconnect-disabled": "?1", "x-request-timeout-seconds": "-1"},
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_holds_for_any_headers(
    http: TestClient, services: dict[str, FakeService], headers: dict[str, str], stream: bool
) -> None:
    services["digits"].step_seconds = 4.0
    started = time.monotonic()
    body = {"deadline_seconds": 0.1, "stream": stream}
    response = http.post("/v1/models/digits/sample", json=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (504, "deadline")
    assert time.monotonic() - started < 2 and len(services["digits"].cancelled) == 1  # less than a step


def test_the_deadline_holds_for_work_that_does_not_end_when_cancelled(
    app: Any, services: dict[str, FakeService]
) -> None:
    services["digits"].step_seconds, services["digits"].ignores_cancellation = 2.0, True

    async def scene() -> None:
        request = AsgiRequest(app, {"deadline_seconds": 0.1})
        started = time.monotonic()
        await request.run()
        assert request.status == 504 and time.monotonic() - started < 1

    run(scene())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("verb", ["sample", "impute"])
def test_work_is_cancelled_when_the_client_disconnects(
    app: Any, services: dict[str, FakeService], stream: bool, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = services["digits"]
    service.step_seconds = 0.2
    given = {"x": [[0] * 8] * 8, "mask": [[1] * 8] * 8} if verb == "impute" else {}

    async def scene() -> None:
        request = AsgiRequest(app, {"stream": stream, **given}, verb=verb)
        running = asyncio.ensure_future(request.run())
        await until(lambda: len(request.sent) > 2 if stream else service.jobs)
        request.hung_up.set()
        left = time.monotonic()
        await until(lambda: service.cancelled == ["me"])
        await running
        assert time.monotonic() - left < 0.1

    with caplog.at_level(logging.INFO, "gen_ray.access"):
        run(scene())
    [line] = [json.loads(record.message) for record in caplog.records if record.name == "gen_ray.access"]
    assert line["code"] == "cancelled" and line["status"] == (200 if stream else 499)


def test_the_work_of_fifty_clients_that_disconnect_is_cancelled(app: Any, services: dict[str, FakeService]) -> None:
    services["digits"].step_seconds = 0.5

    async def scene() -> None:
        requests = [AsgiRequest(app, {"stream": bool(number % 2)}) for number in range(50)]
        running = [asyncio.ensure_future(request.run()) for request in requests]
        await until(lambda: len(services["digits"].jobs) == 50)
        for request in requests:
            request.hung_up.set()
        await asyncio.gather(*running)
        await until(lambda: len(services["digits"].cancelled) == 50)
        assert len(asyncio.all_tasks()) == 1

    assert run(scene()) < 2


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_event_is_a_status(ask: Ask, services: dict[str, FakeService], stream: bool) -> None:
    services["digits"].trouble = RequestRefusedError(BUSY)
    response = ask("digits", "sample", stream=stream)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json() == {
        "code": "busy", "message": "the queue is full", "request_id": response.headers["x-request-id"],
    }  # fmt: skip
    services["digits"].trouble = RequestRefusedError(ErrorReply(status=429, code="busy", message="é\ud800 \n" * 5000))
    response = ask("digits", "sample", stream=stream)
    assert response.headers["retry-after"] == "1" and len(response.content) < 4096 and "\n" not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_details_of_a_server_error_are_only_in_the_log(
    ask: Ask, services: dict[str, FakeService], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    services["digits"].trouble = ZeroDivisionError("secret of the house")
    response = ask("digits", "sample", stream=stream)
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "secret" not in response.text and "Error" not in response.text
    assert "ZeroDivisionError: secret of the house" in caplog.text and response.headers["x-request-id"] in caplog.text


@pytest.mark.parametrize(
    ("trouble", "code", "status"), [(RequestRefusedError(BUSY), "busy", 429), (OSError("x"), "internal", 500)]
)
def test_an_error_during_a_stream_is_the_last_event(
    ask: Ask, services: dict[str, FakeService], trouble: Exception, code: str, status: int
) -> None:
    services["digits"].trouble, services["digits"].fails_late = trouble, True
    response = ask("digits", "sample", stream=True)
    received = events(response.text)
    assert response.status_code == 200 and [name for name, _ in received] == ["preview", "preview", "error"]
    assert (
        received[-1][1].items()
        >= {"code": code, "status": status, "request_id": response.headers["x-request-id"]}.items()
    )


def test_a_deadline_during_a_stream_is_the_last_event(ask: Ask, services: dict[str, FakeService]) -> None:
    services["digits"].step_seconds = 0.05
    *previews, (name, data) = events(ask("digits", "sample", stream=True, deadline_seconds=0.22).text)
    assert 1 <= len(previews) <= 4 and (name, data["code"], data["status"]) == ("error", "deadline", 504)
    assert len(services["digits"].cancelled) == 1


@pytest.mark.parametrize("form", ["json", "png"])
def test_a_stream_has_previews_and_the_result_of_a_plain_request(ask: Ask, form: str) -> None:
    response = ask("digits", "sample", n=2, seed=4, stream=True, format=form, previews=5)
    assert response.headers["content-type"].startswith("text/event-stream")
    received = events(response.text)
    assert [name for name, _ in received] == ["preview"] * 5 + ["result"]
    assert [(data["done"], data["total"]) for _, data in received[:-1]] == [(done, 10) for done in (2, 4, 6, 8, 10)]
    plain = ask("digits", "sample", n=2, seed=4, format=form).json()
    assert {**received[-1][1], "request_id": ""} == {**plain, "request_id": ""}
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(received[0][1]["images"][0])))).ravel()
    samples = np.array(ask("digits", "sample", n=2, seed=4).json()["samples"])[0].ravel()
    np.testing.assert_array_equal(grey[:12], np.rint(samples[:12] * 255 / 16))
    assert (grey[12:] == 128).all()


def test_a_stream_has_ten_previews_unless_they_are_disabled(ask: Ask) -> None:
    assert [name for name, _ in events(ask("digits", "sample", stream=True, previews=0).text)] == ["result"]
    assert len(events(ask("digits", "sample", stream=True).text)) == 11


def test_undecided_characters_of_a_text_are_dots(ask: Ask) -> None:
    received = events(ask("text", "sample", seed=1, stream=True).text)
    [final] = received[-1][1]["samples"]
    assert received[0][1]["texts"] == [final[:1] + "·" * 11] and received[4][1]["texts"] == [final[:6] + "·" * 6]
    tokens = events(ask("tokens", "sample", stream=True).text)
    assert tokens[0][1]["samples"] == [[-1] * 6]


def test_a_stream_has_heartbeats_and_sends_each_event_at_once(app: Any, services: dict[str, FakeService]) -> None:
    services["digits"].step_seconds = 0.12

    async def scene() -> None:
        request = AsgiRequest(app, {"stream": True, "previews": 2})
        await request.run()
        bodies = [(when, message.get("body", b"")) for when, message in request.sent[1:]]
        shown = [when for when, body in bodies if body.startswith(b"event: ")]
        assert len(shown) == 3 and shown[1] - shown[0] > 0.5
        assert sum(body.startswith(b":") for _, body in bodies) >= 5
        assert request.sent[-1][1].get("more_body", False) is False and request.bytes.endswith(b"\n\n")

    run(scene())


def test_the_wait_for_a_missing_body_is_limited(services: dict[str, FakeService]) -> None:
    async def scene() -> None:
        request = AsgiRequest(build(services, ApiSettings(body_seconds=0.1)), {})
        request.body = None
        await request.run()
        assert request.status == 408

    assert run(scene()) < 2


@pytest.mark.parametrize("way", ["disconnect", "KeyError", "StopAsyncIteration", "cancelled"])
def test_a_client_that_disconnects_while_it_sends_is_not_a_server_error(
    app: Any, services: dict[str, FakeService], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts: list[Any] = [{"type": "http.request", "body": b'{"n"', "more_body": True}]

    async def receive() -> dict[str, object]:
        if parts:
            return parts.pop()
        if way == "cancelled":
            await asyncio.sleep(60)
        if way != "disconnect":
            raise {"KeyError": KeyError, "StopAsyncIteration": StopAsyncIteration}[way]("of the proxy")
        return {"type": "http.disconnect"}

    async def scene() -> None:
        request = AsgiRequest(app, {})
        running = asyncio.ensure_future(app(request.scope, receive, request.send))
        await until(lambda: not parts)
        if way == "cancelled":
            running.cancel()
        await asyncio.wait({running})

    with caplog.at_level(logging.INFO):
        run(scene())
    [line] = [json.loads(record.message) for record in caplog.records if record.name == "gen_ray.access"]
    assert (line["status"], line["code"]) == (499, "cancelled")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_endless_body_is_read_up_to_the_limit_only(app: Any) -> None:
    taken = 0

    async def endless() -> dict[str, object]:
        nonlocal taken
        taken += 65536
        return {"type": "http.request", "body": bytes(65536), "more_body": True}

    async def scene() -> None:
        request = AsgiRequest(app, {})
        await app(request.scope, endless, request.send)
        assert request.status == 413 and taken <= 2**20 + 65536

    run(scene())


def test_the_wait_for_the_card_of_a_model_is_limited(services: dict[str, FakeService]) -> None:
    class Silent(FakeService):
        async def card(self) -> Any:
            await asyncio.sleep(10)

    app = build({"digits": Silent(services["digits"].model_card)}, ApiSettings(card_seconds=0.1))
    client = TestClient(app, base_url="http://localhost")
    assert client.post("/v1/models/digits/sample").json()["code"] == "unavailable"
    assert client.get("/v1/models").json()["data"][0]["ready"] is False
    assert client.get("/healthz/ready").status_code == 503


def test_sockets_other_than_http_are_closed(app: Any) -> None:
    async def scene() -> None:
        request = AsgiRequest(app, {})
        request.scope = {"type": "websocket", "path": "/v1/models", "headers": []}
        await request.run()
        assert request.sent[0][1]["type"] == "websocket.close"

    run(scene())
