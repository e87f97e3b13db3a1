"""Checks before Ray starts: an environment that Ray refuses, or in which it would wait endlessly, is named."""

import os
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from gen_ray.bench.cluster import streaming
from gen_ray.cluster.nodes import preflight
from gen_ray.errors import RunError, UserError
from tests.conftest import free_port


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RAY_TRAIN_V2_ENABLED", "0"),
        ("RAY_memory_usage_threshold", "much"),
        ("RAY_memory_usage_threshold", "0"),
        ("RAY_memory_usage_threshold", "95"),
        ("RAY_memory_monitor_refresh_ms", "-1"),
        ("RAY_memory_monitor_refresh_ms", "0.5"),
        ("RAY_OVERRIDE_RESOURCES", "{CPU: 1}"),
    ],
)
def test_a_variable_that_ray_refuses_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}={value}: .*unset it"):
        preflight.check(None)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://127.0.0.1:8265",
        "ray://127.0.0.1:10001",
        "foo",
        "127.0.0.1",
        "::1",
        "a b:6379",
        "h:99999",
        "h:0",
        ":1",
    ],
)
def test_an_address_that_is_not_one_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="is not HOST:PORT of a Ray head"):
        preflight.check(address)


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with pytest.raises(RunError, match=r"no Ray cluster answers \(Connection refused\)"):
        preflight.check(f"127.0.0.1:{free_port()}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        preflight.check(f"127.0.0.1:{server.getsockname()[1]}")


def test_memory_that_is_full_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "percent")
    monkeypatch.setattr("gen_ray.cluster.nodes.preflight.psutil.virtual_memory", lambda: memory(96.0))
    with pytest.raises(RunError, match=r"\b96%.*memory.*\b95%"):
        preflight.check(None)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.98")
    preflight.check(None)


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (OSError("AF_UNIX path length cannot exceed 107 bytes: /x"), UserError, "RAY_TMPDIR"),
        (FileNotFoundError(2, "No such file", "/proc/x"), RunError, "RAY_TMPDIR"),
        (ConnectionError("no"), RunError, "no Ray cluster answers"),
        (SystemExit(15), RunError, "no Ray cluster answers"),
        (ValueError("Invalid\naddress"), UserError, "Invalid address"),
        (Exception("The current node timed out"), RunError, "timed out"),
    ],
)
def test_an_error_of_ray_is_reported_in_one_line(error: BaseException, kind: type[Exception], line: str) -> None:
    with pytest.raises(kind, match=line) as excinfo, preflight.translated(None):
        raise error
    assert "\n" not in str(excinfo.value)


def test_a_refused_training_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gen_ray.cluster.training.train import train
    from gen_ray.experiment import parse

    monkeypatch.setattr("gen_ray.cluster.nodes.connect.ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match="an http address is the dashboard's"):
        train(parse({"name": "a", "family": "vae", "storage": {"root": str(tmp_path)}}))
    assert not os.path.exists(tmp_path / "runs")


def test_the_streaming_benchmark_is_refused_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "95")
    monkeypatch.setattr("gen_ray.bench.cluster.streaming._write", lambda *_: pytest.fail("was called"))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UserError, match="RAY_memory_usage_threshold=95: "):
        streaming.stream_larger(data_mb=1, store_mb=80)
