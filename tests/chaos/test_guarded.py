"""Security of a cluster started by the launcher: nothing works without the token, and the token is never visible."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from gen_ray.engine.training import checkpoint_store
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.chaos.head_node import Head, running_head
from tests.chaos.runs import long_experiment
from tests.conftest import free_port

pytestmark = [pytest.mark.timed, pytest.mark.timeout(480, method="thread")]
INNER, METRICS = ("gcs_server", "raylet", "ray::", "agent.py"), (44217, 44227)
"""Ray's own processes, which listen on all interfaces, for one another; the README lists them."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all machines share."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def head(shared: Path) -> Iterator[Head]:
    """Return a head whose jobs store their results in the shared folder."""
    with running_head(cpus=2, GEN_RAY_STORAGE=str(shared)) as found:
        yield found


@pytest.fixture
def work(shared: Path, tmp_path: Path) -> Path:
    """Return a working directory with a run that takes a minute and one that cannot start."""
    raw = long_experiment(shared, "jobbed", num_workers=1).resolved()
    raw["training"] |= {"epochs": 1500, "checkpoint_every_seconds": 3600, "ema_snapshots": 0}
    del raw["storage"]
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(raw))
    raw["training"]["epochs"], raw["name"] = 2, "short"
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path


def test_without_the_token_nothing_is_answered(head: Head) -> None:
    token = head.home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and len(head.token) == 64
    for path in ("/api/jobs/", "/api/version", "/nodes?view=summary", "/api/cluster_status"):
        requests_without_token = [
            requests.get(head.dashboard + path, headers=headers, timeout=10).status_code
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {head.token}"})
        ]
        assert requests_without_token == [401, 403, 200], path
    job = {"entrypoint": f"touch {head.folder}/canary"}
    assert requests.post(f"{head.dashboard}/api/jobs/", json=job, timeout=10).status_code == 401
    assert not (head.folder / "canary").exists()


def test_a_wrong_token_is_reported_in_one_line(head: Head) -> None:
    none = head.gen_ray("jobs", "list", RAY_AUTH_TOKEN_PATH="/nowhere", RAY_AUTH_MODE="disabled")
    wrong = head.gen_ray("jobs", "list", RAY_AUTH_TOKEN="wrong")
    assert none.code == wrong.code == 1
    assert "asks for a token" in none.fault and "it is not this cluster's" in wrong.fault
    unknown = head.gen_ray("jobs", "logs", "nope")
    assert unknown.code == 2 and "nope: no such job" in unknown.fault


def test_a_job_that_is_stopped_saves_a_checkpoint_and_its_run_is_killed(head: Head, work: Path, shared: Path) -> None:
    """Also checks that no log, process or MLflow record contains the token."""
    job = head.gen_ray("submit", "--no-wait", "train", "long.yaml", cwd=work).out.strip()
    store = Store.of(None, "jobbed", shared)
    _until(lambda: any("train/loss_nats" in row.metrics for row in rows(store)) if _is_mounted(shared) else False)
    commands = " ".join(_command(process) for process in _alive())
    assert "pipelines.train long.yaml" in commands and head.token not in commands
    stopped_at = time.time()
    assert head.gen_ray("jobs", "stop", job).code == 0
    _until(lambda: rows(store)[0].status == "KILLED", seconds=20)
    seconds = time.time() - stopped_at
    [home] = (shared / "runs").glob("jobbed-*")
    checkpoint = checkpoint_store.checkpoints(home).last()
    assert checkpoint is not None and checkpoint.stat().st_mtime > stopped_at
    assert seconds < 10
    print(f"KILLED {seconds:.1f} s after jobs stop")
    line = f"stopped at step {checkpoint_store.step_of(checkpoint)}"
    _until(lambda: line in head.gen_ray("jobs", "logs", job).out, seconds=20)
    again = head.gen_ray("submit", "--no-wait", "train", "long.yaml", "--resume", cwd=work).out.strip()
    _until(lambda: rows(store)[0].status == "RUNNING")
    assert len(rows(store)) == 1
    assert head.gen_ray("jobs", "stop", again).code == 0
    _until(lambda: rows(store)[0].status == "KILLED", seconds=20)
    secrets = [file for file in head.folder.rglob("*") if file.is_file() and head.token.encode() in file.read_bytes()]
    assert secrets == []
    assert head.token not in json.dumps([[row.params, row.tags] for row in rows(store)], default=str)
    assert head.token not in "".join(f"{file}{file.read_bytes()!r}" for file in home.rglob("*.yaml"))


def test_a_submitted_command_behaves_like_a_local_one(head: Head, work: Path) -> None:
    """Exit code, output and errors are the same, and the same as through Ray's own command."""
    ours = head.gen_ray("submit", "train", "short.yaml", "--dry-run", cwd=work)
    ray = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", "."]
    env = {**head.environment, "RAY_AUTH_MODE": "token"}
    words = ["--", "python", "-m", "pipelines.train", "short.yaml", "--dry-run"]
    theirs = subprocess.run([*ray, *words], cwd=work, env=env, capture_output=True, text=True, timeout=100)
    plain = head.gen_ray("train", "short.yaml", "--dry-run", cwd=work)
    assert ours.code == theirs.returncode == plain.code == 0
    assert plain.out.strip() in ours.out and plain.out.strip() in theirs.stdout
    failed = head.gen_ray("submit", "train", "short.yaml", "training.epochs=none", cwd=work)
    assert failed.code == 2 and "error: training.epochs:" in failed.out
    listed = head.gen_ray("jobs", "list").out
    assert "train short.yaml --dry-run" in listed and "failed" in listed and "error: training.epochs" in listed


def test_a_job_whose_supervisor_was_killed_is_continued_by_the_same_command(
    head: Head, work: Path, shared: Path
) -> None:
    job = head.gen_ray("submit", "--no-wait", "train", "short.yaml", "training.epochs=200", cwd=work).out.strip()
    store = Store.of(None, "jobbed", shared)
    _until(lambda: any(row.name == "short" and "train/loss_nats" in row.metrics for row in rows(store)))
    [supervisor] = [process for process in _alive() if "JobSupervisor" in _command(process)]
    supervisor.send_signal(signal.SIGKILL)
    _until(lambda: not any("pipelines.train short.yaml" in _command(p) for p in _alive()), seconds=40)
    again = head.gen_ray("submit", "train", "short.yaml", "training.epochs=200", "--resume", cwd=work)
    assert again.code == 0, again.out
    assert [row.status for row in rows(store) if row.name == "short"] == ["FINISHED"]
    assert job in head.gen_ray("jobs", "list").out


def test_only_internal_ray_ports_listen_beyond_this_machine(head: Head, shared: Path, tmp_path: Path) -> None:
    """Every service except Ray's communication between machines listens on this machine only."""
    port, serving = free_port(), free_port()
    result = head.gen_ray("start", "mlflow", "--port", port, "--detach")
    assert result.code == 0, result.err
    server = f"http://127.0.0.1:{port}"
    try:
        assert requests.get(server, headers={"Host": "evil.example"}, timeout=10).status_code >= 400
        assert requests.get(f"{server}/health", timeout=10).ok
        for path in ("..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/mlflow.db", "a/..%2f..%2f..%2fetc%2fpasswd"):
            found = requests.get(f"{server}/api/2.0/mlflow-artifacts/artifacts/{path}", timeout=10)
            assert 400 <= found.status_code < 500, path
        environ = [p.environ() for p in _alive() if "mlflow" in _command(p) and str(port) in _command(p)]
        assert environ and all(env["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false" for env in environ)
        listening = _listening(shared)
        everywhere = [(program, number) for program, address, number in listening if address in ("0.0.0.0", "::")]
        assert everywhere
        others = [
            (program, n) for program, n in everywhere if n not in METRICS and not any(it in program for it in INNER)
        ]
        assert not others
        at = {number: address for _, address, number in listening}
        assert at[port] == "127.0.0.1" and at[int(head.dashboard.rpartition(":")[2])] == "127.0.0.1"
        assert serving not in at
    finally:
        for process in _alive():
            with suppress(psutil.NoSuchProcess):
                if "mlflow" in _command(process) and str(shared) in str(process.environ()):
                    process.kill()


def _listening(shared: Path) -> list[tuple[str, str, int]]:
    """Return command, address and port of each listening process of the cluster with this storage folder."""
    found = []
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.pid:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(one.pid)
                if process.environ().get("GEN_RAY_STORAGE") == str(shared):
                    found.append((_command(process)[:140].strip(), one.laddr.ip, one.laddr.port))
    return found


def _alive() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            process.cmdline()
            found.append(process)
    return found


def _command(process: psutil.Process) -> str:
    """Return the command of a process, or an empty text if it has ended."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError):
        return " ".join(process.cmdline())
    return ""


def _is_mounted(shared: Path) -> bool:
    return (shared / "mlflow.db").exists()


def _until(so: object, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not so():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.3)
