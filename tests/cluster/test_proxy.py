"""Limits of the proxies of Ray Serve, on a uvicorn server started as Serve does, without Ray."""

import asyncio
import inspect
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from ray.serve._private.http_util import _apply_middlewares, convert_object_to_asgi_messages
from ray.serve._private.proxy import HTTPProxy
from starlette.types import Receive, Scope, Send
from uvicorn import config

from gen_ray.cluster.serving import proxy
from tests.serving.loopback import listening

SEEN: list[bytes] = []
MISSING = {
    "/no/application": "Path '/no/application' not found. Ping http://.../-/routes for available routes.",
    "/no/model": "not known here",
}
"""Answers with 404: Serve's own (`HTTPProxy.not_found_response`), and one of an application."""
LARGE = 20_000_000
"""Bytes of an answer that the buffers of the system do not hold."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request id, as the ingress does."""
    [given] = [value for name, value in scope["headers"] if name == b"x-request-id"]
    SEEN.append(given)
    while scope["path"] != "/early" and (await receive()).get("more_body", False):
        pass
    await asyncio.sleep(1.0 if scope["path"] == "/slow" else 0)
    if scope["path"] in MISSING:
        for message in convert_object_to_asgi_messages(MISSING[scope["path"]], status_code=404):
            await send(message)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", given)]})
    await send({"type": "http.response.body", "body": bytes(LARGE) if scope["path"] == "/large" else b"done"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setitem(config.HTTP_PROTOCOLS, "auto", config.HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(proxy, "REST_SECONDS", 0.5)
    monkeypatch.setattr(proxy, "UNREAD_SECONDS", 1.0)
    monkeypatch.setattr(proxy, "MAX_CONNECTIONS", 20)
    SEEN.clear()
    whole = _apply_middlewares(app, proxy.middlewares())
    with listening(lambda: whole, factory=True, lifespan="off") as found:
        yield found


def talk(port: int, *parts: bytes) -> bytes:
    """Send parts and return all bytes received until the connection ends or two seconds pass."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=2)) as line:
        received = b""
        with suppress(OSError):  # the server may answer and close before it has read everything
            for part in parts:
                line.sendall(part)
        try:
            while data := line.recv(65536):
                received += data
        except OSError:
            pass
    return received


def request(*headers: bytes, path: bytes = b"/") -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: a", b"Connection: close", *headers, b"", b""])


@pytest.mark.parametrize(
    ("headers", "is_repeated"),
    [
        ([b"X-Request-ID: mine-1"], True),
        ([b"X-Request-ID: <script>"], False),
        ([b"X-Request-ID: \xe9\xff"], False),
        ([b"X-Request-ID: " + b"a" * 65], False),
        ([b"X-Request-ID: a", b"X-Request-ID: b"], False),
        ([], False),
    ],
)
def test_a_response_has_one_request_id_and_repeats_only_a_well_formed_one(
    port: int, headers: list[bytes], is_repeated: bool
) -> None:
    received = talk(port, request(*headers)).lower()
    assert received.startswith(b"http/1.1 200") and received.count(b"x-request-id") == 1
    assert (b"mine-1" in received) is is_repeated and b"<script>" not in received and b"a" * 65 not in received
    assert b"x-request-id: " + SEEN[0] in received  # the ingress logs the same id


@pytest.mark.parametrize(
    "parts",
    [
        [request(b"A: " + b"a" * 40_000)],
        [request(*(b"A%d: %s" % (i, b"a" * 100) for i in range(400)))],
        [request(path=b"/" + b"a" * 40_000)],
        [b"GET / HTTP/1.1\r\nHost: a\r\nA: ", *[b"a" * 8192] * 6],
    ],
    ids=["one header", "many headers", "path", "a header without end"],
)
def test_headers_have_a_limit(port: int, parts: list[bytes]) -> None:
    assert talk(port, *parts).startswith(b"HTTP/1.1 431") and SEEN == []


def test_headers_below_the_limit_and_large_bodies_pass(port: int) -> None:
    assert talk(port, request(b"A: " + b"a" * 30_000)).startswith(b"HTTP/1.1 200")
    body = b"x" * 300_000
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n"
    twice = head + b"\r\n" + body + head + b"Connection: close\r\n\r\n" + body
    assert talk(port, twice).count(b"HTTP/1.1 200") == 2


def test_the_wait_for_headers_is_limited(port: int) -> None:
    started = time.monotonic()
    assert talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n") == b""
    assert time.monotonic() - started < 1.9


SLOW = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("following", "statuses"),
    [
        ([b"\r\n", request()], [b"200", b"200"]),
        ([b"\r", b"\n"], [b"200"]),
        ([b"G"], [b"200"]),
        ([request()[:20], request()[20:]], [b"200", b"200"]),
        ([b"\x00 no request\r\n\r\n"], [b"200", b"400"]),
        ([request(b"A: " + b"a" * 40_000)], [b"200", b"431"]),
    ],
)
def test_pipelined_requests_wait_for_the_first_answer(port: int, following: list[bytes], statuses: list[bytes]) -> None:
    """The answer takes longer than the time limit for a client's headers."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=3)) as line:
        line.sendall(SLOW)
        for part in following:
            time.sleep(0.1)
            line.sendall(part)
        line.settimeout(2.5)
        received = b""
        with suppress(OSError):
            while data := line.recv(65536):
                received += data
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == statuses, received


def test_connections_have_a_limit(port: int) -> None:
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for line in connections:
        line.sendall(SLOW)
    time.sleep(0.3)
    assert talk(port, request()) == b""
    for line in connections:
        line.close()
    time.sleep(0.1)
    assert talk(port, request()).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_closed_for_a_new_one(port: int) -> None:
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    time.sleep(0.1)
    assert talk(port, request()).startswith(b"HTTP/1.1 200")
    for line in connections:
        line.close()


def answered_early(port: int) -> socket.socket:
    """Return a connection whose request is answered although its body has not ended."""
    line = socket.create_connection(("127.0.0.1", port), timeout=3)
    line.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert line.recv(65536).startswith(b"HTTP/1.1 200")
    return line


def test_an_endless_body_is_not_read_after_its_answer(port: int) -> None:
    sent = 0
    with closing(answered_early(port)) as line, suppress(ConnectionError):
        while sent < 60:
            line.sendall(b"1\r\n \r\n")
            sent += 1
            time.sleep(0.05)
    assert sent < 40, "at most 0.5 s of the body"


def test_the_rest_of_a_body_after_its_answer_leaves_the_connection_open_for_a_request(port: int) -> None:
    with closing(answered_early(port)) as line:
        line.sendall(b"1\r\n \r\n0\r\n\r\n")
        time.sleep(0.8)  # longer than REST_SECONDS
        line.sendall(request())
        assert line.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_connection_that_is_idle_after_the_rest_of_a_body_is_closed(port: int) -> None:
    with closing(answered_early(port)) as line:
        line.sendall(b"1\r\n \r\n0\r\n\r\n")
        line.settimeout(8)  # uvicorn keeps connections for 5 s
        with suppress(ConnectionResetError):
            assert line.recv(1) == b""


def test_an_answer_that_the_client_does_not_read_is_dropped(port: int) -> None:
    with closing(socket.socket()) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        line.settimeout(5)
        line.connect(("127.0.0.1", port))
        line.sendall(request(path=b"/large"))
        time.sleep(4)
        received = 0
        with suppress(ConnectionResetError):
            while data := line.recv(65536):
                received += len(data)
        assert received < LARGE


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [(b"\x00 no request\r\n\r\n", 400, "malformed"), (request(b"A: " + b"a" * 40_000), 431, "headers_too_large")],
)
def test_bytes_that_are_not_a_request_are_refused_in_json(port: int, sent: bytes, status: int, code: str) -> None:
    head, _, body = talk(port, sent).partition(b"\r\n\r\n")
    found = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % status) and found["code"] == code and found["message"]
    assert b"x-request-id: " + found["request_id"].encode() in head


def test_without_an_application_a_client_gets_503_and_retry_after(port: int) -> None:
    head, _, body = talk(port, request(path=b"/no/application")).partition(b"\r\n\r\n")
    found = json.loads(body)
    assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in head.lower() and found["code"] == "unavailable"
    assert found["request_id"].encode() == SEEN[-1]
    other = talk(port, request(path=b"/no/model"))
    assert other.startswith(b"HTTP/1.1 404 ") and b"not known here" in other


def test_the_404_of_serve_is_recognised() -> None:
    source = inspect.getsource(HTTPProxy.not_found_response)
    assert "Path '{proxy_request.path}' not found. " in source and "Ping http://.../-/routes for available" in source
