"""Models on Ray Serve through HTTP: answers, previews, disconnects, logs, and the number of replicas."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ray import serve

from gen_ray.bench.cluster.serving import constant as bench_constant
from gen_ray.bench.cluster.serving.load import RequestKind
from gen_ray.client import ApiError, Client
from gen_ray.cluster.nodes import ports
from gen_ray.cluster.serving import endpoint, server
from gen_ray.cluster.serving.app import build
from gen_ray.cluster.serving.args import ServedModel, ServingApplication
from gen_ray.cluster.serving.ingress import api_settings
from gen_ray.cluster.serving.scaling import by_backlog, replicas_for
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.generate import generate
from gen_ray.errors import UserError
from tests.conftest import CommandResult, free_port, until
from tests.engine.tiny_models import CPU, model

KEY = "a-key-of-this-test-alone"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("serving")
    for family in ("ddpm", "vae"):
        artifact.write(home / "runs" / f"toy-{family}" / "artifact", model(family))
    return home


@pytest.fixture(scope="module")
def url(cluster: None, root: Path) -> Iterator[str]:
    from gen_ray.serving.settings import ApiKey

    app = ServingApplication(
        models={"ddpm": ServedModel(model="toy-ddpm", cpus=0.5), "vae": ServedModel(model="toy-vae", cpus=0.5)},
        root=root,
        key_hashes={"anna": ApiKey.of("anna", KEY).digest.hex()},
    )
    with server.served(app, "127.0.0.1", free_port()) as address:
        yield address


def test_samples_by_http_equal_those_of_the_engine(url: str, root: Path) -> None:
    client = Client(url, KEY)
    assert {card["id"]: card["family"] for card in client.models()} == {"ddpm": "ddpm", "vae": "vae"}
    found = client.sample("ddpm", n=3, seed=5, sampler="heun", steps=4)
    of = artifact.load(root / "runs" / "toy-ddpm" / "artifact")
    single = generate(of.net, of.family.chain("heun", 4), 3, seed=5, device=CPU).numpy()
    assert np.abs(found.samples.astype(int) - single).max() <= 1
    assert client.score("vae", x=single).arrays["bits_per_dim"].shape == (3,)


def test_a_stream_has_previews(url: str) -> None:
    events = list(Client(url, KEY).stream("ddpm", n=2, seed=1, sampler="ancestral", previews=4))
    assert len(events) >= 3


def test_requests_without_a_key_are_refused(url: str) -> None:
    with pytest.raises(ApiError) as refused:
        Client(url).models()
    assert refused.value.status == 401


def counters(name: str) -> dict[str, float]:
    found: dict[str, float] = serve.get_deployment_handle(name, server.NAME).counters.remote().result()
    return found


def test_a_disconnect_cancels_the_job_in_the_replica(url: str) -> None:
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


def test_requests_are_logged_with_the_name_of_the_key(url: str, root: Path) -> None:
    Client(url, KEY).sample("ddpm", n=1, seed=3)
    [file] = (root / "serving").glob("access-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert any(line["key"] == "anna" and line["model"] == "ddpm" and line["status"] == 200 for line in lines)
    assert KEY not in file.read_text()


def test_the_error_log_has_the_versions_that_replicas_serve(url: str, root: Path) -> None:
    """Replicas are other processes than the ingress, which logs the requests."""
    [file] = (root / "serving").glob("errors-*.log")
    for family in ("ddpm", "vae"):
        assert f"INFO {family}: serving version toy-{family}" in file.read_text()


WRITER = """
import logging, pathlib, sys
from gen_ray.cluster.serving import logs
handler = logs.SharedFileHandler(pathlib.Path(sys.argv[1]), maxBytes=4000, backupCount=99)
for line in range(200):
    handler.emit(logging.LogRecord("a", logging.INFO, "", 0, f"{sys.argv[2]}-{line} " + "x" * 30, None, None))
"""


def test_processes_share_a_rotated_log_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a.log")]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = [line.split()[0] for file in tmp_path.glob("a.log*") for line in file.read_text().splitlines()]
    assert sorted(found) == sorted(f"{number}-{line}" for number in range(3) for line in range(200))
    assert len(list(tmp_path.glob("a.log*"))) > 4


def test_a_constant_load_is_measured_over_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_constant, "WARM_SECONDS", 0.5)
    kinds = [RequestKind("ddim", 5, 5), RequestKind("ancestral", 20, 20)]
    load = bench_constant.ConstantLoad("ddpm", f"{url}/v1/models/ddpm/sample", kinds, KEY)
    found = asyncio.run(load.run(2.0, 0.1))
    figures = found.figures()
    assert sum(figures["statuses"].values()) == sum(part.requests for part in found.parts)
    assert 1.4 < sum(part.requests for part in found.parts) / found.rate < 2.6
    assert 0 < figures["median_seconds"] <= figures["p99_seconds"] <= figures["longest_seconds"]
    assert all(0.2 * k <= part.end_seconds < 0.2 * k + 1 for k, part in enumerate(found.parts, 1))
    assert len(found.parts) == 10
    assert all(part.memory_mib["replica"] > 50 and part.open_files > 3 for part in found.parts)
    assert "replica" in figures["memory_mib_per_minute"]


def test_the_slope_of_memory_is_that_of_the_second_half() -> None:
    grows = [100, 300, 500, 500, 500, 510, 520, 530, 540, 550]
    parts = [
        bench_constant.LoadPart(
            end_seconds=60.0 * minute, requests=1, errors=0, median_seconds=1, p99_seconds=1,
            memory_mib={"replica": memory}, open_files=5,
        )
        for minute, memory in enumerate(grows, 1)
    ]  # fmt: skip
    figures = bench_constant.ConstantLoadFigures(rate=1.0, parts=parts).figures()
    assert figures["memory_mib_per_minute"]["replica"] == pytest.approx(10.0)


def test_the_number_of_replicas_follows_the_backlog_in_seconds() -> None:
    assert [replicas_for(waiting, 2.0, 1, 4) for waiting in (0, 1, 3, 7, 99)] == [1, 1, 2, 4, 4]

    class Context:
        capacity_adjusted_min_replicas, capacity_adjusted_max_replicas = 1, 4
        target_num_replicas, policy_state = 2, {}
        aggregated_metrics: dict[str, dict[str, float]] | None = None

    context: Any = Context()
    assert by_backlog(context)[0] == 2  # without reports the number stays the same
    context.aggregated_metrics = {
        "backlog_seconds": {"a": 1.0, "b": 4.5},
        "target_backlog_seconds": {"a": 2.0, "b": 2.0},
    }
    assert by_backlog(context)[0] == 3


def test_torch_does_not_block_the_event_loop(url: str) -> None:
    """Requests for cards are answered during a large job."""
    client = Client(url, KEY)
    torch.manual_seed(0)
    began = time.monotonic()
    stream = client.stream("ddpm", n=256, seed=1, sampler="ancestral", previews=20)
    next(iter(stream))
    for _ in range(5):
        client.models()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("host", "port", "replace", "refusal"),
    [
        ("127.0.0.1", None, False, r"already serves ddpm, vae at http://127\.0\.0\.1:\d+ .*`replace`.*`stop`"),
        ("127.0.0.1", 9, False, "already serves ddpm, vae"),
        ("127.0.0.1", 9, True, r"`port=9`: Ray Serve of this cluster listens at http://127\.0\.0\.1:\d+"),
        ("0.0.0.0", None, True, r"`host=0\.0\.0\.0`.*use argument `host=127\.0\.0\.1`"),
    ],
)
def test_a_second_server_of_a_cluster_is_refused_and_leaves_the_first(
    url: str, root: Path, host: str, port: int | None, replace: bool, refusal: str
) -> None:
    other = ServingApplication(models={"other": ServedModel(model="toy-vae")}, root=root)
    here = int(url.rpartition(":")[2])
    with pytest.raises(UserError, match=refusal), server.served(other, host, port or here, replace=replace):
        pytest.fail("served")
    assert {card["id"] for card in Client(url, KEY).models()} == {"ddpm", "vae"}
    with pytest.raises(ApiError):
        Client(url).models()


def test_two_commands_do_not_start_on_one_cluster_at_once(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with (
        endpoint.admitted("127.0.0.1", port, keys=True, replace=True),
        pytest.raises(UserError, match="another gen-ray serve is starting"),
        endpoint.admitted("127.0.0.1", port, keys=True, replace=True),
    ):
        pytest.fail("admitted")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "localhost"])
def test_a_port_belongs_to_one_server(host: str) -> None:
    """Also between the check and the start of the proxy; the proxy, which uses SO_REUSEPORT, can still bind it."""
    port = free_port()
    with ports.reserve(host, port):
        with pytest.raises(UserError, match=f"`port={port}`: another server listens"), ports.reserve(host, port):
            pytest.fail("held twice")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as proxy:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                proxy.setsockopt(socket.SOL_SOCKET, option, 1)
            proxy.bind((host, port))
            proxy.listen()
            with socket.create_connection((host.replace("0.0.0.0", "127.0.0.1"), port)):
                pass
            with pytest.raises(UserError, match="another server listens"), ports.reserve(host, port):
                pytest.fail("held while a proxy listens")


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--port", "PORT"], r"--port \d+: another server listens at http://127\.0\.0\.1:\d+"),
        (["--host", "192.0.2.77"], "GEN_RAY_API_KEYS"),
        (["--detach"], "--detach: needs a cluster on which"),
        (["--stop"], "--stop: needs the cluster on which"),
    ],
    ids=lambda it: it[0] if isinstance(it, list) else "",
)
def test_models_that_cannot_be_served_are_refused_before_ray_starts(
    root: Path, gen_ray: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch, words: list[str], refusal: str
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as used:
        given = [str(used.getsockname()[1]) if word == "PORT" else word for word in words]
        outcome = gen_ray("serve", "toy-vae", "--storage", root, *given)
    assert outcome.code == 2 and re.search(refusal, outcome.fault), outcome.fault


def test_an_address_of_another_machine_is_refused(
    root: Path, gen_ray: Callable[..., CommandResult], monkeypatch: Any
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("GEN_RAY_API_KEYS", f"anna:{KEY}")
    outcome = gen_ray("serve", "toy-vae", "--storage", root, "--host", "192.0.2.77")
    assert outcome.code == 2 and "--host 192.0.2.77: cannot be listened on with --port 8000" in outcome.fault


@pytest.mark.parametrize(
    ("listening", "keys", "required", "refusal"),
    [
        ("127.0.0.1", None, False, ""),
        ("127.0.0.1", None, True, "require_keys: the application has no API keys"),
        ("127.0.0.1", "", False, "GEN_RAY_API_KEYS: is set but empty"),
        ("127.0.0.1", "  ", True, "GEN_RAY_API_KEYS: is set but empty"),
        ("0.0.0.0", None, False, "Ray Serve listens on 0.0.0.0"),
        ("::", None, False, "Ray Serve listens on ::"),
        ("10.0.0.7", None, False, "Ray Serve listens on 10.0.0.7"),
        ("0.0.0.0", f"anna:{KEY}", True, ""),
    ],
)
def test_an_application_without_keys_is_for_loopback_only(
    listening: str, keys: str | None, required: bool, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEN_RAY_API_KEYS", raising=False)
    if keys is not None:
        monkeypatch.setenv("GEN_RAY_API_KEYS", keys)
    app = ServingApplication(models={"a": ServedModel(model="a")}, require_keys=required)
    with pytest.raises(UserError, match=refusal) if refusal else nullcontext():
        assert bool(api_settings(app, listening).keys) == bool(keys)


def test_the_printed_yaml_has_the_host_to_listen_on(root: Path, gen_ray: Callable[..., CommandResult]) -> None:
    """By default Ray Serve listens on all interfaces."""
    printed = yaml.safe_load(gen_ray("serve", "toy-vae", "--storage", root, "--config").out)
    assert printed["http_options"] == {"host": "127.0.0.1", "port": 8000}


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "configs" / "serve").glob("*.yaml")), ids=str)
def test_the_shipped_files_are_understood_by_ray_serve_and_by_the_application(file: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    deployed = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    for application in deployed.applications:
        assert application.import_path == f"{build.__module__}:{build.__name__}"
        app = ServingApplication.model_validate(application.args)
        assert app.models and build(app)


def test_a_command_removes_only_its_own_deployment(url: str, root: Path) -> None:
    """The last test of this file, because it replaces the application that the others use."""
    port = int(url.rpartition(":")[2])
    other = ServingApplication(models={"other": ServedModel(model="toy-vae", cpus=0.5)}, root=root)
    with server.served(other, "127.0.0.1", port, replace=True):
        assert {card["id"] for card in Client(url).models()} == {"other"}
        server.kv._internal_kv_put(server.OWNER, b"a third command")
    assert {card["id"] for card in Client(url).models()} == {"other"}
    assert server.stop() and not serve.status().applications
