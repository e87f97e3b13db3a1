"""Starts the processes of a cluster's machines: Ray, which requires the token, and MLflow's server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import requests

from gen_ray.cluster.nodes import environment, ports
from gen_ray.errors import RunError, UserError, argument
from gen_ray.host import ray_token
from gen_ray.storage.paths import default, local_dir
from gen_ray.tracking.database import uri_of

DATABASE, ARTIFACTS = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"
SERVER = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 14 unnecessary processes
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # artifacts are safetensors and JSON
}
START_SECONDS = 90.0
STOP_SECONDS = 3.0  # pending requests finish; twice this is less than ending.GRACE_SECONDS
ANYWHERE = "192.0.2.1"
"""A documentation address (RFC 5737), used to find the interface of outgoing packets."""


def head(*, port: int, dashboard_port: int, insecure: bool, options: Sequence[str]) -> int:
    """Start Ray as the head of a cluster, creating its token if missing, and return the exit code.

    The dashboard, which accepts jobs, listens on this machine's loopback only. Raise UserError if the cluster would be
    open, or if a port is in use: Ray itself would choose another port for the dashboard.
    """
    ports.check("0.0.0.0", port)  # noqa: S104 - other machines must reach it; the token protects it
    ports.check("127.0.0.1", dashboard_port, "dashboard_port")
    own = _guarded(insecure=insecure, make=True)
    words = ["--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}", *options]
    return _ray_start(words, ANYWHERE, own)


def worker(address: str, *, insecure: bool, options: Sequence[str]) -> int:
    """Start Ray as a worker of the cluster at HEAD:PORT and return the exit code. Raise UserError."""
    own = _guarded(insecure=insecure, make=False)
    return _ray_start([f"--address={address}", *options], address.rpartition(":")[0], own)


def _interface(host: str) -> Mapping[str, str]:
    """Return the variable that makes gloo use the network interface towards a host; {} without a route to it.

    By default gloo uses the interface of the machine's host name, which is loopback on many systems: workers on two
    machines then cannot connect.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 1))  # sends nothing
        except OSError:
            return {}
        own = probe.getsockname()[0]
    names = [name for name, addresses in psutil.net_if_addrs().items() if own in {it.address for it in addresses}]
    return {"GLOO_SOCKET_IFNAME": names[0]} if names else {}


def _guarded(*, insecure: bool, make: bool) -> Mapping[str, str]:
    """Return the variables that make Ray require the token, after checking or creating it."""
    if insecure:
        return {ray_token.MODE: ray_token.OPEN}
    if os.environ.get(ray_token.MODE) == ray_token.OPEN:
        raise UserError(
            f"{ray_token.MODE}={ray_token.OPEN}: any client that reaches this machine could run code on it; "
            f"unset it, or pass {argument('insecure')}"
        )
    if not ray_token.exists():
        if not make:
            raise UserError(f"{ray_token.file()}: is missing; copy it from the cluster's head, by scp -p for instance")
        ray_token.generate()
    ray_token.secure()
    return {ray_token.MODE: "token"}


def _ray_start(words: Sequence[str], towards: str, guard: Mapping[str, str]) -> int:
    """Run ray start; towards is an address of the network to use. The user's variables win, except over the guard."""
    usual = {**environment.RAY, **environment.SERVE, **environment.STOP, **_interface(towards)}
    variables = {**usual, **os.environ, **guard}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", *words]
    return subprocess.run(command, env=variables, check=False).returncode


def mlflow(*, host: str, port: int, insecure: bool, detach: bool, names: Sequence[str] = ()) -> int:
    """Run MLflow's server and return its exit code; with detach, leave it running once it answers.

    Its database is SQLite and its artifacts are files of this machine unless MLflow's own variables name others.
    Raise UserError if it would be open to other machines, RunError if it does not start.
    """
    if host not in ports.LOOPBACK and not insecure:
        raise UserError(
            "MLflow has no authentication; keep 127.0.0.1 and connect by ssh -L "
            f"{port}:127.0.0.1:{port}, put an authenticating proxy in front, or pass {argument('insecure')}",
            field="host",
            value=host,
        )
    ports.check(host, port)
    root = local_dir(default())
    root.mkdir(parents=True, exist_ok=True)
    stores = {DATABASE: uri_of(root / "mlflow.db"), ARTIFACTS: (root / "mlflow_artifacts").as_uri()}
    # Passed by variables, not arguments: a database's password must not appear in the process list.
    variables = {**stores, **os.environ, **SERVER}
    words = ["server", "--host", host, "--port", str(port), "--workers", "1"]
    if names or host == "::1":  # MLflow does not allow these hosts by default
        local_hosts = [f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")]
        words += ["--allowed-hosts", ",".join([*names, *local_hosts])]
    command = [sys.executable, "-m", "mlflow", *words]
    if not detach:
        return _attached(command, variables)
    _detached(command, variables, host, port, root / "mlflow-server.log")
    return 0


def _attached(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server until it ends and return its exit code. A signal to this process also stops the server's workers."""
    server = subprocess.Popen(command, env=environment)
    try:
        return server.wait()
    except BaseException:  # the server's worker holds the port and outlives its parent
        _stop(server)
        raise


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """Stop a server and its descendants; those still running after STOP_SECONDS get SIGKILL."""
    with suppress(psutil.NoSuchProcess):
        running = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for send in (psutil.Process.terminate, psutil.Process.kill):
            for process in running:
                with suppress(psutil.NoSuchProcess):
                    send(process)
            _, running = psutil.wait_procs(running, timeout=STOP_SECONDS)


def _detached(command: Sequence[str], environment: Mapping[str, str], host: str, port: int, log: Path) -> None:
    """Start a server and leave it running once it answers. Otherwise kill it and raise RunError."""
    with log.open("ab") as stream:
        server = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        _wait(server, host, port, log)
    except BaseException:  # Ctrl-C too
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # its children are in its session
        server.wait()
        raise


def _wait(server: "subprocess.Popen[bytes]", host: str, port: int, log: Path) -> None:
    """Wait until this server answers; another server at the same address does not count."""
    address, until = ports.own_url(host, port), time.monotonic() + START_SECONDS
    with requests.Session() as session:
        session.trust_env = False  # a proxy does not reach this machine's loopback
        while time.monotonic() < until and server.poll() is None:
            with suppress(requests.RequestException):
                if session.get(f"{address}/health", timeout=5).ok and ports.listens(server.pid, port):
                    return
            time.sleep(0.2)
    raise RunError(f"{address}: MLflow's server did not start; {log} says why")
