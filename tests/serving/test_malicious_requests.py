"""Malformed and malicious requests: the server neither echoes nor fetches them, and answers with a status 4xx."""

import base64
import gc
import http.server
import io
import json
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

import psutil
import pytest
from PIL import Image
from starlette.testclient import TestClient

from gen_ray.serving.api import build
from gen_ray.serving.settings import ApiSettings
from tests.serving.conftest import Ask
from tests.serving.services import FakeService

MARKER = "MARKERmarker"
SAMPLE, SCORE, DECODE = (f"/v1/models/digits/{verb}" for verb in ("sample", "score", "decode"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """Return 74 bytes of a PNG whose header claims the given size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data
    return whole


NESTED = b"[" * 100_000 + b"]" * 100_000
RAW: dict[str, bytes] = {
    "nan": b'{"seed": NaN}',
    "infinity": b'{"deadline_seconds": Infinity}',
    "minus infinity": b'{"deadline_seconds": -Infinity}',
    "huge float": b'{"deadline_seconds": 1e400}',
    "400 digits": b'{"seed": ' + b"9" * 400 + b"}",
    "5000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "negative": b'{"seed": -1}',
    "too large a seed": b'{"seed": 9223372036854775808}',
    "true": b'{"seed": true}',
    "a float": b'{"n": 1.5}',
    "a number as text": b'{"n": "1"}',
    "lone surrogate": b'{"sampler": "\\ud800"}',
    "lone surrogate as key": b'{"\\udfff": 1}',
    "null byte": b'{"sampler": "\\u0000"}',
    "deep": NESTED,
    "deep in x": b'{"x": ' + NESTED + b"}",
    "deep objects": b'{"x": ' * 50_000 + b"1" + b"}" * 50_000,
    "invalid utf-8": b'{"sampler": "\xff\xfe"}',
    "utf-16": '{"n": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"n": 1}',
    "a key twice": b'{"n": 1, "n": 2}',
    "cut off": b'{"n": 1',
    "two values": b'{"n": 1} {"n": 2}',
    "a list": b"[]",
    "a text": b'"sample"',
    "a number": b"1",
    "null": b"null",
    "nothing but space": b"  ",
    "an unknown key": b'{"%s": 1}' % (MARKER.encode() * 1000),
    "many unknown keys": json.dumps({MARKER + str(k): k for k in range(10_000)}).encode(),
    "a long sampler": b'{"sampler": "%s"}' % (MARKER.encode() * 10_000),
    "an unknown sampler": b'{"sampler": "%s"}' % MARKER.encode(),
    "an unknown quality": b'{"quality": "%s"}' % MARKER.encode(),
    "an unknown format": b'{"format": "%s"}' % MARKER.encode(),
}


def harmless(response: object) -> None:
    status, body, text = response.status_code, response.content, response.text  # type: ignore[attr-defined]
    assert 400 <= status < 500, (status, text[:300])
    assert len(body) <= 4096 and MARKER not in text
    assert set(response.json()) == {"code", "message", "request_id"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("raw", RAW.values(), ids=list(RAW))
def test_raw_bytes_are_refused(http: TestClient, raw: bytes, services: dict[str, FakeService]) -> None:
    for path in (SAMPLE, SCORE, DECODE):
        harmless(http.post(path, content=raw, headers={"Content-Type": "application/json"}))
    assert not services["digits"].jobs


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_a_body_with_another_content_type_is_not_read(http: TestClient, kind: str) -> None:
    response = http.post(SAMPLE, content=b'{"n": 1}', headers={"Content-Type": kind})
    harmless(response)
    assert response.status_code == 415


@pytest.mark.parametrize("fields", [
    {"x": [[[10**400] * 8] * 8]}, {"x": [[[2**63] * 8] * 8]}, {"x": [[[-(2**70)] * 8] * 8]}, {"x": [[[None] * 8] * 8]},
    {"x": [[["1"] * 8] * 8]}, {"x": [[[1e300] * 8] * 8]}, {"x": [{}]}, {"x": [[[[[[1]]]]]]}, {"x": [MARKER]},
    {"x": [[]]}, {"x": []}, {"images": []}, {"images": [MARKER]}, {"images": [""]}, {"images": ["A"]},
    {"images": ["é"]}, {"images": [base64.b64encode(MARKER.encode() * 20).decode()]}, {"images": [None]},
    {"texts": [MARKER]}, {"images": MARKER},
])  # fmt: skip
def test_invalid_instances_are_refused(ask: Ask, fields: dict[str, object]) -> None:
    for model in ("digits", "colour", "text", "tokens"):
        harmless(ask(model, "score", **fields))


@pytest.mark.parametrize("z", [[[1e400, 0]], [[10**400, 0]], [[1e300, 0]], [[0]], [[]], [], [[0, 0, 0]], [["0", "0"]]])
def test_invalid_latents_are_refused(http: TestClient, z: list[object]) -> None:
    raw = json.dumps({"z": z}).replace("Infinity", "1e400").encode()
    harmless(http.post(DECODE, content=raw, headers={"Content-Type": "application/json"}))


def test_unknown_paths_of_every_kind_are_refused(http: TestClient) -> None:
    for name in (MARKER, "..%2f..%2fetc%2fpasswd", "%00", "%ff%fe", "a" * 5000, "{}", "digits%0d%0aX:1"):
        harmless(http.get(f"/v1/models/{name}"))
        harmless(http.post(f"/v1/models/{name}/sample", json={}))
    for path in (f"/{MARKER}", "/page/index.html", "/..%2fsettings.py", "/api.py", "/v1", "/v1/models/"):
        harmless(http.get(path))
    harmless(http.delete("/v1/models"))


@pytest.mark.parametrize("filtered", ["ignore", "error"])
def test_an_image_whose_header_claims_a_huge_size_is_refused(ask: Ask, filtered: Literal["ignore", "error"]) -> None:
    warnings.simplefilter(filtered, Image.DecompressionBombWarning)
    huge = bomb(12_000, 12_000)
    assert len(huge) <= 80
    ask("digits", "score", images=[base64.b64encode(bomb(8, 8)).decode()])
    gc.collect()
    before = psutil.Process().memory_info().rss
    for width, height in (
        (12_000, 12_000),
        (2**31 - 1, 2**31 - 1),
        (2**31, 1),
        (2**32 - 1, 2**32 - 1),
        (2001, 2000),
        (1, 4_000_001),
    ):
        response = ask("digits", "score", images=[base64.b64encode(bomb(width, height)).decode()], resize=True)
        harmless(response)
        assert response.status_code == 422 and "4,000,000 pixels" in response.json()["message"]
    many = [base64.b64encode(bomb(1000, 1000)).decode()] * 5
    assert "together" in ask("digits", "score", images=many, resize=True).json()["message"]
    assert psutil.Process().memory_info().rss - before < 50e6


def test_truncated_images_and_other_formats_are_refused(ask: Ask) -> None:
    gif = base64.b64encode(
        b"GIF89a\x08\x00\x08\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x08\x00\x08\x00"
    )
    ghost = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n")
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", progressive=True)
    jpeg = buffer.getvalue()
    first, end = jpeg.index(b"\xff\xda"), len(jpeg) - 2
    scans = base64.b64encode(jpeg[:first] + jpeg[first:end] * 65 + jpeg[end:])
    for text, why in (
        (base64.b64encode(bomb(8, 8)), "damaged"),
        (gif, "can be read"),
        (ghost, "can be read"),
        (scans, "scans"),
    ):
        response = ask("digits", "score", images=[text.decode()])
        harmless(response)
        assert why in response.json()["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_have_the_length_of_the_limit_but_not_more(services: dict[str, FakeService], chunked: bool) -> None:
    client = TestClient(build(services, ApiSettings(body_bytes=1000)), base_url="http://localhost")

    def post(length: int) -> int:
        body = b'{"n": 1}'.ljust(length)
        content = iter([body[:600], body[600:]]) if chunked else body
        response = client.post(SAMPLE, content=content, headers={"Content-Type": "application/json"})
        assert ("content-length" in response.request.headers) is not chunked
        return response.status_code

    assert [post(999), post(1000), post(1001), post(100_000)] == [200, 200, 413, 413]
    assert client.post(SAMPLE, content=b"{}", headers={"Content-Length": "-1"}).status_code == 400
    assert client.post(SAMPLE, content=b"{}", headers={"Content-Length": "9" * 30}).status_code == 400


def test_the_default_limit_is_a_mebibyte(http: TestClient) -> None:
    for length, status in ((2**20, 200), (2**20 + 1, 413)):
        response = http.post(SAMPLE, content=b"{}".ljust(length), headers={"Content-Type": "application/json"})
        assert response.status_code == status


@pytest.fixture
def canary() -> Iterator[tuple[int, list[str]]]:
    hits: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_error(404)

        do_HEAD = do_POST = do_GET  # noqa: N815 # names of the base class

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, hits
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_nothing_is_ever_fetched(ask: Ask, canary: tuple[int, list[str]]) -> None:
    port, hits = canary
    places = ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "0")
    urls = [f"{scheme}://{host}:{port}/a.png" for scheme in ("http", "https", "ftp", "gopher") for host in places]
    urls += [f"//127.0.0.1:{port}/a", f"http:127.0.0.1:{port}", f"http://a@127.0.0.1:{port}/", "file:///etc/passwd"]
    urls += ["data:image/png;base64,iVBORw0KGgo=", "/etc/passwd", "file:/etc/hostname", f"HTTP://127.0.0.1:{port}/"]
    urls += [
        f"http://127.0.0.1:{port}/a.png#x",
        f"url(http://127.0.0.1:{port})",
        f"\\\\127.0.0.1@{port}\\a",
        "jar:file:a",
    ]
    urls += [base64.b64encode(url.encode()).decode() for url in urls[:8]]
    assert len(urls) >= 50
    for url in urls:
        attempts: list[Callable[[], object]] = [
            lambda url=url: ask("digits", "score", images=[url]),
            lambda url=url: ask("digits", "impute", image=url, mask=url),
            lambda url=url: ask("digits", "impute", x=[[0] * 8] * 8, mask=url),
        ]
        for ask_one in attempts:
            response = ask_one()
            harmless(response)
            assert response.status_code == 422  # type: ignore[attr-defined]
    assert hits == []
