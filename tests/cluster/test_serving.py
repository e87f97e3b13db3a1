"""Models behind Ray Serve, by HTTP: what comes back, what is told on the way, who leaves, and how many replicas."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ray import serve

from gen_ray.client import ApiError, Client
from gen_ray.cluster.serving import server
from gen_ray.cluster.serving.app import build
from gen_ray.cluster.serving.args import Application, Served
from gen_ray.cluster.serving.scaling import by_backlog, replicas_for
from gen_ray.engine import artifact
from gen_ray.engine.generate import generate
from tests.conftest import free_port
from tests.engine.toys import CPU, model

KEY = "a-key-of-this-test-alone"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("serving")
    for family in ("ddpm", "vae"):
        artifact.write(home / "runs" / f"toy-{family}" / "artifact", model(family))
    return home


@pytest.fixture(scope="module")
def url(cluster: None, root: Path) -> Iterator[str]:
    from gen_ray.serving.settings import Key

    app = Application(
        models={"ddpm": Served(model="toy-ddpm", cpus=0.5), "vae": Served(model="toy-vae", cpus=0.5)},
        root=root,
        key_hashes={"anna": Key.of("anna", KEY).digest.hex()},
    )
    with server.served(app, "127.0.0.1", free_port()) as address:
        yield address


def test_samples_by_http_are_those_of_the_engine(url: str, root: Path) -> None:
    client = Client(url, KEY)
    assert {card["id"]: card["family"] for card in client.models()} == {"ddpm": "ddpm", "vae": "vae"}
    found = client.sample("ddpm", n=3, seed=5, sampler="heun", steps=4)
    of = artifact.load(root / "runs" / "toy-ddpm" / "artifact")
    alone = generate(of.net, of.family.chain("heun", 4), 3, seed=5, device=CPU).numpy()
    assert np.abs(found.samples.astype(int) - alone).max() <= 1
    assert client.score("vae", x=alone).arrays["bits_per_dim"].shape == (3,)


def test_a_stream_shows_the_way(url: str) -> None:
    events = list(Client(url, KEY).stream("ddpm", n=2, seed=1, sampler="ancestral", previews=4))
    assert len(events) >= 3


def test_without_a_key_the_door_is_closed(url: str) -> None:
    with pytest.raises(ApiError) as refused:
        Client(url).models()
    assert refused.value.status == 401


def counters(name: str) -> dict[str, float]:
    found: dict[str, float] = serve.get_deployment_handle(name, server.NAME).counters.remote().result()
    return found


def test_who_hangs_up_is_given_up_in_the_replica(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"n": 200, "sampler": "ancestral", "steps": 20}).encode()
    for extra in ("", "x-request-disconnect-disabled: ?0\r\n"):
        for _ in range(5):
            with socket.create_connection((host, int(port))) as line:
                head = f"POST /v1/models/ddpm/sample HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n{extra}"
                line.sendall(
                    f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )
    until(lambda: counters("ddpm")["requests"] == 0)


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_requests_are_written_down_with_the_name_of_the_key(url: str, root: Path) -> None:
    Client(url, KEY).sample("ddpm", n=1, seed=3)
    [file] = (root / "serving").glob("access-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert any(line["key"] == "anna" and line["model"] == "ddpm" and line["status"] == 200 for line in lines)
    assert KEY not in file.read_text()


def test_replicas_follow_the_seconds_that_wait() -> None:
    assert [replicas_for(waiting, 2.0, 1, 4) for waiting in (0, 1, 3, 7, 99)] == [1, 1, 2, 4, 4]

    class Context:
        capacity_adjusted_min_replicas, capacity_adjusted_max_replicas = 1, 4
        target_num_replicas, policy_state = 2, {}
        aggregated_metrics: dict[str, dict[str, float]] | None = None

    context: Any = Context()
    assert by_backlog(context)[0] == 2  # nobody has reported yet: leave it as it is
    context.aggregated_metrics = {
        "backlog_seconds": {"a": 1.0, "b": 4.5},
        "target_backlog_seconds": {"a": 2.0, "b": 2.0},
    }
    assert by_backlog(context)[0] == 3


def test_torch_is_not_on_the_event_loop(url: str) -> None:
    """While a large job computes, cards are answered."""
    client = Client(url, KEY)
    torch.manual_seed(0)
    began = time.monotonic()
    stream = client.stream("ddpm", n=256, seed=1, sampler="ancestral", previews=20)
    next(iter(stream))
    for _ in range(5):
        client.models()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "configs" / "serve").glob("*.yaml")), ids=str)
def test_the_shipped_files_are_understood_by_ray_serve_and_by_the_application(file: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    deployed = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    for application in deployed.applications:
        assert application.import_path == f"{build.__module__}:{build.__name__}"
        app = Application.model_validate(application.args)
        assert app.models and build(app)
