"""The client with a real server on loopback, also through a proxy that loses data."""

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from gen_ray.client import ApiError, Client, ClientPreview, ClientResult, _body
from gen_ray.serving.api import build
from gen_ray.serving.service import ErrorReply, RequestRefusedError
from gen_ray.serving.settings import ApiSettings
from tests.serving.conftest import KEY
from tests.serving.loopback import listening
from tests.serving.services import FakeService


@pytest.fixture
def port(services: dict[str, FakeService], settings: ApiSettings) -> Iterator[int]:
    with listening(build(services, settings), log_level="warning") as found:
        yield found


@pytest.fixture
def client(port: int) -> Client:
    return Client(f"http://127.0.0.1:{port}/", KEY)


class LossyProxy:
    """A proxy that cuts the first answers after the listed numbers of bytes and forwards everything else."""

    def __init__(self, port: int, keep: list[int]) -> None:
        self.port, self.keep, self.connections = port, keep, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.socket.accept()
                self.connections += 1
                left = self.keep.pop(0) if self.keep else 10**9
                threading.Thread(target=self.pass_on, args=(near, left), daemon=True).start()

    def pass_on(self, near: socket.socket, left: int) -> None:
        with near, socket.create_connection(("127.0.0.1", self.port)) as far, contextlib.suppress(OSError):
            threading.Thread(target=self.copy, args=(near, far), daemon=True).start()
            while left > 0 and (data := far.recv(min(left, 65536))):
                near.sendall(data)
                left -= len(data)
            near.shutdown(socket.SHUT_RDWR)

    def copy(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)


def test_every_verb_returns_arrays_and_metadata(client: Client, services: dict[str, FakeService]) -> None:
    assert [card["id"] for card in client.models()] == ["digits", "colour", "text", "tokens"]
    result = client.sample("digits", n=3, seed=5, sampler="ancestral", steps=4)
    assert result.samples.shape == (3, 1, 8, 8) and result.samples.max() <= 16
    assert (result.model, result.version, result.sampler, result.steps, result.nfe) == (
        "digits", "7", "ancestral", 4, 30,
    )  # fmt: skip
    assert (result.seed, result.queued_seconds, result.computed_seconds, len(result.request_id)) == (5, 0, 0.5, 16)
    x, mask = result.samples[0], np.zeros((8, 8), bool)
    mask[:4] = True
    filled = client.impute("digits", x=x, mask=mask, n=2)
    assert filled.samples.shape == (2, 1, 8, 8) and (filled.samples[:, 0, 4:] == x[0, 4:]).all()
    score = client.score("digits", x=result.samples)
    assert score.arrays["bits_per_dim"].shape == (3,) and score.notes == {"kind": "vlb"}
    assert client.encode("digits", x=result.samples).arrays["mu"].shape == (3, 2)
    assert client.decode("digits", z=np.zeros((2, 2))).samples.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(client.reconstruct("digits", x=result.samples).samples, result.samples)
    assert len(client.sample("text", n=2).texts[1]) == 12


def test_an_image_may_be_given_as_the_bytes_of_its_file(client: Client, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    white = (tmp_path / "white.png").read_bytes()
    assert (client.reconstruct("digits", images=[white]).samples == 16).all()


def test_an_image_is_the_png_of_the_api(client: Client, port: int) -> None:
    form = {"n": 4, "seed": 3, "format": "grid"}
    headers = {"Authorization": f"Bearer {KEY}"}
    sent = requests.post(f"http://127.0.0.1:{port}/v1/models/digits/sample", json=form, headers=headers, timeout=30)
    assert client.picture("digits", n=4, seed=3) == sent.content and sent.content.startswith(b"\x89PNG")
    assert client.picture("digits", "decode", z=np.zeros((3, 2))).startswith(b"\x89PNG")
    with pytest.raises(ApiError, match="not pictures"):
        client.picture("text")


@pytest.mark.parametrize("field", [{"format": "png"}, {"format": "npz"}, {"stream": False}, {"stream": True}])
def test_a_field_that_the_client_sets_is_refused(
    client: Client, services: dict[str, FakeService], field: dict[str, Any]
) -> None:
    """Regression: such a field was ignored silently; sample(format="grid") returned arrays."""
    for ask in (client.sample, client.picture, lambda *model, **fields: next(client.stream(*model, **fields))):
        with pytest.raises(ValueError, match="is set by the client"):
            ask("digits", **field)
    assert not services["digits"].jobs


def test_a_stream_yields_previews_and_then_the_result(client: Client) -> None:
    *previews, last = client.stream("colour", n=2, seed=3, previews=4)
    assert all(isinstance(preview, ClientPreview) for preview in previews) and isinstance(last, ClientResult)
    assert [preview.done for preview in previews] == [2, 5, 8, 10]  # type: ignore[union-attr]
    assert previews[0].images.shape == (2, 4, 5, 3)  # type: ignore[union-attr]
    np.testing.assert_array_equal(last.samples, client.sample("colour", n=2, seed=3).samples)
    [*dots, last] = client.stream("text")
    assert "·" in dots[0].texts[0] and len(last.texts[0]) == 12  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        (lambda client: client.sample("nothing"), 404, "not_found"),
        (lambda client: client.sample("digits", n=0), 422, "invalid"),
        (lambda client: list(client.stream("digits", sampler="nothing")), 422, "invalid"),
        (lambda client: Client(client._session.url, "a-wrong-key-of-sixteen").models(), 401, "unauthorized"),
        (lambda client: Client("http://127.0.0.1:9", retries=1).models(), 0, "unreachable"),
    ],
)
def test_errors_have_the_api_message(client: Client, ask: Callable[[Client], Any], status: int, code: str) -> None:
    with pytest.raises(ApiError) as error:
        ask(client)
    assert (error.value.status, error.value.code) == (status, code) and error.value.message in str(error.value)
    assert bool(error.value.request_id) is (status > 0)


def test_a_busy_server_is_retried_with_the_same_request_at_the_time_it_states(
    client: Client, services: dict[str, FakeService], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    service = services["digits"]
    service.trouble = RequestRefusedError(ErrorReply(status=429, code="busy", message="full", retry_after_seconds=6.5))

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        service.trouble = None if len(waits) == 2 else service.trouble

    monkeypatch.setattr("urllib3.util.retry.time.sleep", sleep)
    result = client.sample("digits")
    assert waits == [7, 7] and [job.seed for job in service.jobs] == [result.seed] * 3


def test_retries_are_limited(client: Client, services: dict[str, FakeService], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    for status, code, tries in ((500, "internal", 11), (499, "cancelled", 11), (500, "not_finite", 1)):
        waits.clear()
        services["digits"].jobs.clear()
        services["digits"].trouble = RequestRefusedError(ErrorReply(status=status, code=code, message="no"))
        with pytest.raises(ApiError, match="no"):
            client.sample("digits")
        assert len(services["digits"].jobs) == tries
        assert waits == sorted(waits) and (20 < sum(waits) < 40 if tries > 1 else not waits)


def test_lost_answers_are_requested_again(port: int, services: dict[str, FakeService]) -> None:
    between = LossyProxy(port, [0, 50, 600, 1200])
    client = Client(between.url, KEY)
    result = client.sample("colour", n=20)
    assert result.samples.shape == (20, 3, 4, 5) and between.connections == 5
    assert {job.seed for job in services["colour"].jobs} == {result.seed}


def test_an_interrupted_stream_continues_after_the_last_preview(port: int, services: dict[str, FakeService]) -> None:
    between = LossyProxy(port, [0, 800, 1500])
    services["digits"].step_seconds = 0.01
    *previews, last = Client(between.url, KEY).stream("digits", n=2)
    assert [preview.done for preview in previews] == list(range(1, 11))  # type: ignore[union-attr]
    assert isinstance(last, ClientResult) and between.connections == 4
    assert {job.seed for job in services["digits"].jobs} == {last.seed}


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://localhost:{port}", "http://a.localhost:{port}"])
def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    port: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    sender = Client(url.format(port=port), KEY, retries=0)._session
    if "a.localhost" in url:  # not every system resolves it
        assert sender._proxies == {"http": "", "https": ""}
        return
    assert sender.send("GET", "/v1/models").json()["data"]
    assert Client("http://models.example.org", KEY)._session._proxies is None


def test_a_seed_of_none_is_drawn_once_for_all_tries(client: Client, services: dict[str, FakeService]) -> None:
    for _ in range(2):
        assert client.sample("digits", seed=None).seed == services["digits"].jobs[-1].seed
    *_, last = client.stream("digits", seed=None)
    assert isinstance(last, ClientResult) and last.seed == services["digits"].jobs[-1].seed
    body = json.loads(_body({"seed": None}))
    assert isinstance(body["seed"], int) and json.loads(_body({"seed": 0}))["seed"] == 0


@pytest.mark.parametrize("model", ["digits", "colour", "tokens"])
def test_a_stream_has_the_sample_type_of_a_single_answer(client: Client, model: str) -> None:
    *_, last = client.stream(model, n=2, seed=3)
    assert isinstance(last, ClientResult)
    plain = client.sample(model, n=2, seed=3).samples
    assert last.samples.dtype == plain.dtype and (last.samples == plain).all()


def test_images_may_be_paths_bytes_or_base64_and_a_path_as_text_is_explained(client: Client, tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "white.png"
    Image.new("L", (8, 8), 255).save(file)
    data = file.read_bytes()
    for given in (file, data, bytearray(data), base64.b64encode(data).decode()):
        assert (client.reconstruct("digits", images=[given]).samples == 16).all()
    filled = client.impute("digits", image=file, mask=file)
    assert filled.samples.shape == (1, 1, 8, 8)
    for field in ("image", "mask"):
        with pytest.raises(ValueError, match=rf"{field}: '.*white.png' is not base64 of a file; give pathlib.Path"):
            client.impute("digits", **{"image": file, "mask": file, field: str(file)})
    with pytest.raises(FileNotFoundError):
        client.score("digits", images=[tmp_path / "missing.png"])
    with pytest.raises(TypeError, match="Image cannot be sent"):
        client.score("digits", x=Image.new("L", (8, 8)))
