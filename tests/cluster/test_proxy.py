"""The limits of Serve's proxies, on a server of uvicorn as Serve starts it, without Ray."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from ray.serve._private.http_util import _apply_middlewares
from starlette.types import Receive, Scope, Send
from uvicorn import config

from gen_ray.cluster.serving import proxy
from tests.serving.loopback import listening

SEEN: list[bytes] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request id, as the ingress does."""
    [given] = [value for name, value in scope["headers"] if name == b"x-request-id"]
    SEEN.append(given)
    while (await receive()).get("more_body", False):
        pass
    await asyncio.sleep(1.0 if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", given)]})
    await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setitem(config.HTTP_PROTOCOLS, "auto", config.HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(proxy, "MOST_CONNECTIONS", 20)
    SEEN.clear()
    whole = _apply_middlewares(app, proxy.middlewares())
    with listening(lambda: whole, factory=True, lifespan="off") as found:
        yield found


def talk(port: int, *parts: bytes) -> bytes:
    """Send parts and return everything that is received until the end, or for two seconds."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=2)) as line:
        received = b""
        with suppress(OSError):  # the server may answer and close before it has everything
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
    ("headers", "kept"),
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
    port: int, headers: list[bytes], kept: bool
) -> None:
    received = talk(port, request(*headers)).lower()
    assert received.startswith(b"http/1.1 200") and received.count(b"x-request-id") == 1
    assert (b"mine-1" in received) is kept and b"<script>" not in received and b"a" * 65 not in received
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


def test_headers_that_do_not_come_are_not_waited_for(port: int) -> None:
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
def test_what_follows_a_request_waits_for_its_answer(port: int, following: list[bytes], statuses: list[bytes]) -> None:
    """The answer takes longer than a client may take for its headers."""
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
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    time.sleep(0.1)
    assert talk(port, request()) == b""
    for line in held:
        line.close()
    time.sleep(0.1)
    assert talk(port, request()).startswith(b"HTTP/1.1 200")
