"""gen-ray start mlflow: the answering server is the started one; a failed start leaves no process or file."""

import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gen_ray.cluster.nodes import nodes, ports
from tests.conftest import CommandResult, free_port

SERVER = """
import http.server, os, socket, subprocess, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
host, port = (sys.argv[sys.argv.index(word) + 1] for word in ("--host", "--port"))
if os.environ["HOW"] == "fails":
    sys.exit(3)
if os.environ["HOW"] == "hangs":  # and has a child, as a server with workers
    child = subprocess.Popen(["sleep", "60"])
    open(sys.argv[1] + ".child", "w").write(str(child.pid))
    time.sleep(60)
class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
Server((host, int(port)), Handler).serve_forever()
"""


class Other(http.server.BaseHTTPRequestHandler):
    """A server of another program, which reports that it is healthy."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def other() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gen_ray: Callable[..., CommandResult]
) -> Iterator[Callable[..., CommandResult]]:
    """Return a function that runs the command with a small server instead of MLflow's, detached by default."""
    (tmp_path / "server.py").write_text(SERVER)
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/server.py {tmp_path}/pid $*\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setenv("GEN_RAY_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setattr(nodes, "START_SECONDS", 5.0)

    def run(*words: object, how: str = "answers", detach: bool = True) -> CommandResult:
        monkeypatch.setenv("HOW", how)
        return gen_ray("start", "mlflow", *(["--detach"] if detach else []), *words)

    yield run
    if (tmp_path / "pid").exists() and psutil.pid_exists(pid := int((tmp_path / "pid").read_text())):
        os.kill(pid, 9)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("proxy", [False, True])
def test_a_server_is_reached_at_any_address_and_with_any_proxy_set(
    start: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch, host: str, proxy: bool
) -> None:
    if proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
    port = free_port()
    result = start("--host", host, "--port", port, *(["--insecure"] if host == "0.0.0.0" else []))
    shown = {"::1": "[::1]", "0.0.0.0": "127.0.0.1"}.get(host, host)
    assert result.code == 0 and f"export MLFLOW_TRACKING_URI=http://{shown}:{port}" in result.out, result.err


def test_another_server_is_not_taken_for_the_started_one(
    start: Callable[..., CommandResult], other: int, tmp_path: Path
) -> None:
    result = start("--port", other)
    assert result.code == 2 and f"--port {other}: another server listens at http://127.0.0.1:{other}" in result.fault
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_nothing_is_left_of_a_server_that_fails_to_start(
    start: Callable[..., CommandResult], other: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also if another server takes the port after the check and answers instead."""
    monkeypatch.setattr(ports, "check", lambda *_: None)
    monkeypatch.setattr(nodes, "START_SECONDS", 2.0)
    result = start("--port", other, how=how)
    assert result.code == 1 and re.search(r"MLflow's server did not start; \S+mlflow-server.log says why", result.fault)
    group = int((tmp_path / "pid").read_text())
    assert not [p for p in psutil.process_iter() if p.status() != "zombie" and os.getpgid(p.pid) == group]


def test_ctrl_c_leaves_nothing(
    start: Callable[..., CommandResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(nodes, "_wait", interrupt)
    assert start("--port", free_port(), how="hangs").code == 130
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


COMMAND = """
import sys
from pipelines import cli
sys.executable, sys.argv = sys.argv[1], ["gen-ray", *sys.argv[2:]]
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.usefixtures("start")
def test_a_signal_to_only_the_command_stops_the_server_and_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """A process manager or kill(1) signals one process; a worker left behind keeps the port and the database.

    In a separate process: a command that a signal has reached ends its process after some seconds.
    """
    stub, child = sys.executable, tmp_path / "pid.child"
    monkeypatch.undo()
    env = {**os.environ, "GEN_RAY_STORAGE": str(tmp_path / "storage"), "HOW": "hangs"}
    words = [sys.executable, "-c", COMMAND, stub, "start", "mlflow", "--port", str(free_port())]
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE) as command:
        while not (child.exists() and child.read_text()):
            assert command.poll() is None, command.communicate()
            time.sleep(0.01)
        command.send_signal(number)
        assert command.wait(30) == code, command.communicate()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not psutil.pid_exists(int(child.read_text())) or psutil.Process(int(child.read_text())).status() == "zombie"
