"""gen-ray submit and start: refusals before the cluster is contacted, tokens, and the options of Ray's processes."""

import os
import re
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gen_ray.bench.cluster import streaming
from gen_ray.cluster.jobs import jobs, package
from gen_ray.cluster.nodes import connect, nodes
from gen_ray.errors import RunError
from gen_ray.host import ray_token
from tests.conftest import ROOT, CommandResult, free_port

GenRay = Callable[..., CommandResult]
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory that contains ignored files."""
    monkeypatch.chdir(tmp_path)
    for file, size in (("run.yaml", 10), ("big.bin", 3 * 2**20), ("data/x.bin", 2**20), ("notes/a.txt", 5)):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x" * size)
    (tmp_path / ".gitignore").write_text("data/\n")
    (tmp_path / ".rayignore").write_text("notes/*.txt\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "objects").write_bytes(b"x" * 2**20)
    return tmp_path


def test_a_folder_is_uploaded_without_ignored_files(work: Path) -> None:
    found = {str(file.relative_to(work)): size for file, size in package.contents(work).items()}
    assert found == {".gitignore": 6, ".rayignore": 12, "run.yaml": 10, "big.bin": 3 * 2**20}


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["trian", "run.yaml"], r"trian: cannot run as a job.*did you mean 'train'"),
        (["sample", "run"], r"sample: cannot run as a job, because only files below storage.root outlive it"),
        (["--limit-mb", 2, "train", "run.yaml"], r"3\.0 MB would be uploaded, the limit is 2 .*big\.bin 3\.0 MB"),
        (["train", "data/x.bin"], r"data/x\.bin: the job would not find it"),
        (["train", "/etc/hosts"], r"/etc/hosts: the job would not find it"),
        (["--working-dir", "nowhere", "train", "a"], r"--working-dir nowhere: is not a folder"),
        (["--env", "NOT_SET_HERE", "train", "run.yaml"], r"--env NOT_SET_HERE: is not set in this shell"),
        (["--env", "RAY_AUTH_TOKEN=a", "train", "run.yaml"], r"--env RAY_AUTH_TOKEN: a job has the cluster's token"),
        (["--id", "../x", "train", "run.yaml"], r"--id \.\./x: a name is 1 to 64 letters"),
    ],
)
def test_a_command_that_cannot_be_a_job_is_refused_in_one_line(
    work: Path, gen_ray: GenRay, words: list[object], fault: str
) -> None:
    result = gen_ray("submit", "--address", UNREACHABLE, *words)
    assert result.code == 2
    assert re.search(fault, result.fault), result.fault


@pytest.mark.parametrize("waits", [0, 2, 9])
def test_a_job_waits_for_the_agent_of_a_new_cluster(work: Path, monkeypatch: pytest.MonkeyPatch, waits: int) -> None:
    requests: list[str] = []
    clock = iter(range(1000))

    class Client:
        def __init__(self, address: str) -> None: ...

        def submit_job(self, *, submission_id: str, **_: object) -> None:
            requests.append(submission_id)
            if len(requests) <= waits:
                raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try")

    monkeypatch.setattr(jobs, "JobSubmissionClient", Client)
    monkeypatch.setattr(jobs, "AGENT_SECONDS", 5)
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(jobs.time, "sleep", lambda _: None)
    if waits == 9:
        with pytest.raises(RunError, match="No available agent"):
            jobs.Jobs(UNREACHABLE).submit("a", ["x"], work)
    else:
        jobs.Jobs(UNREACHABLE).submit("a", ["x"], work)
        assert requests == ["a"] * (waits + 1)


def test_a_cluster_that_does_not_answer_is_reported_in_one_line(work: Path, gen_ray: GenRay) -> None:
    for words in (["submit", "train", "run.yaml"], ["jobs", "list"], ["jobs", "stop", "a"], ["jobs", "logs", "a"]):
        result = gen_ray(*words, "--address", UNREACHABLE)
        assert result.code == 1 and f"Ray jobs at {UNREACHABLE}: no cluster" in result.fault


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """Replace the ray command and the home folder; return a function that reads the arguments of the call."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "python"
    stub.write_text(f'#!/bin/sh\n(echo "words=$*"; env) > {tmp_path}/called\nexit 3\n')
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (ray_token.MODE, ray_token.VALUE, ray_token.PATH):
        monkeypatch.delenv(name, raising=False)
    return lambda: dict(line.split("=", 1) for line in (tmp_path / "called").read_text().splitlines() if "=" in line)


def test_a_head_makes_a_token_that_others_cannot_read(ray: Callable[[], dict[str, str]], tmp_path: Path) -> None:
    assert nodes.head(port=7000, dashboard_port=7001, insecure=False, options=["--num-cpus=2"]) == 3
    called, file = ray(), tmp_path / ".ray" / "auth_token"
    words = "--head --port=7000 --dashboard-host=127.0.0.1 --dashboard-port=7001 --num-cpus=2"
    assert (
        called["words"] == f"-m ray.scripts.scripts start --disable-usage-stats {words}"
        and called["RAY_AUTH_MODE"] == "token"
    )
    assert called["RAY_JOB_STOP_WAIT_TIME_S"] == "30" and called["OMP_WAIT_POLICY"] == "passive"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and len(file.read_text()) == 64
    assert file.read_text() not in "".join(called.values())
    before = file.read_text()
    file.chmod(0o644)  # the mode that Ray sets
    nodes.head(port=7000, dashboard_port=7001, insecure=False, options=[])
    assert file.read_text() == before and stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
def test_a_head_is_refused_a_port_that_is_in_use(gen_ray: GenRay, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        result = gen_ray(
            "start", "head", "--insecure", "--port", free_port(), "--dashboard-port", free_port(), option, port
        )
    assert result.code == 2 and f"{option} {port}: another server listens at http://127.0.0.1:{port}" in result.err


def test_a_worker_needs_the_heads_token(ray: Callable[[], dict[str, str]], gen_ray: GenRay, tmp_path: Path) -> None:
    result = gen_ray("start", "worker", "head:6379")
    assert result.code == 2 and ".ray/auth_token: is missing; copy it from the cluster's head" in result.fault
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t" * 64)
    assert gen_ray("start", "worker", "head:6379", "--", "--num-gpus=1").code == 3
    assert ray()["words"] == "-m ray.scripts.scripts start --disable-usage-stats --address=head:6379 --num-gpus=1"


def test_a_cluster_without_token_needs_an_option(
    ray: Callable[[], dict[str, str]], gen_ray: GenRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen_ray.cluster.nodes.ports.check", lambda *_: None)  # another Ray may run on this machine
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    result = gen_ray("start", "head")
    assert (
        result.code == 2
        and "RAY_AUTH_MODE=disabled: any client that reaches this machine could run code" in result.fault
    )
    result = gen_ray("start", "head", "--insecure")
    assert result.code == 3 and "warning: anyone who reaches this machine" in result.err
    assert ray()["RAY_AUTH_MODE"] == "disabled"


def test_mlflow_listens_on_other_interfaces_only_with_an_option(gen_ray: GenRay) -> None:
    result = gen_ray("start", "mlflow", "--host", "0.0.0.0")
    assert result.code == 2 and "--host 0.0.0.0: MLflow has no authentication" in result.fault


def test_a_client_with_a_token_sends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (ray_token.MODE, ray_token.VALUE, ray_token.PATH):
        monkeypatch.delenv(name, raising=False)
    ray_token.enable()
    assert ray_token.MODE not in os.environ  # Ray creates a token for a local cluster
    monkeypatch.setenv(ray_token.VALUE, "t")
    ray_token.enable()
    assert os.environ.pop(ray_token.MODE) == "token"
    monkeypatch.setenv(ray_token.MODE, "disabled")
    ray_token.enable()
    assert os.environ[ray_token.MODE] == "disabled"


class InitError(Exception):
    """Raised instead of the start of Ray."""


def start_own() -> None:
    with connect.joined(1):
        pass


def join_another() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        start_own()


def start_small() -> None:
    streaming.stream_larger(data_mb=1, store_mb=80)


@pytest.mark.parametrize("mode", [None, 0o644, 0o666], ids=["no token", "0644", "0666"])
@pytest.mark.parametrize("start", [start_own, join_another, start_small])
def test_others_cannot_read_the_token_when_ray_starts(
    start: Callable[[], None], mode: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Holds for every start of Ray, because Ray writes the file with the permissions of the umask."""
    if mode is None and start is join_another:
        pytest.skip("a cluster's token is copied from its head")
    found: list[int] = []

    def init(**_: object) -> None:
        found.append(stat.S_IMODE(ray_token.file().stat().st_mode))
        raise InitError

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (ray_token.MODE, ray_token.VALUE, ray_token.PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("gen_ray.cluster.nodes.preflight.reach", lambda *_: None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("gen_ray.bench.cluster.streaming.prepare", lambda *_, **__: None)
    if mode is not None:
        (tmp_path / ".ray").mkdir()
        ray_token.file().write_text("t" * 64)
        ray_token.file().chmod(mode)
    with pytest.raises(InitError):
        start()
    assert found == [0o600] and len(ray_token.file().read_text()) == 64


def test_every_start_of_ray_is_covered() -> None:
    files = [file for folder in ("gen_ray", "pipelines") for file in (ROOT / folder).rglob("*.py")]
    started = [file.name for file in files if "ray.init(" in file.read_text(encoding="utf-8")]
    assert started == ["start.py"]  # after preflight.check


def test_processes_that_make_a_token_at_once_agree_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ray_token.PATH, str(tmp_path / "token"))
    for _ in range(2):
        ray_token.generate()
        assert [file.name for file in tmp_path.iterdir()] == ["token"]
    first = ray_token.file().read_text()
    ray_token.generate()
    assert ray_token.file().read_text() == first and len(first) == 64


def test_a_token_of_another_owner_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For example a Kubernetes Secret that is mounted read-only."""
    monkeypatch.setenv(ray_token.PATH, str(tmp_path / "token"))
    ray_token.generate()
    ray_token.file().chmod(0o644)
    monkeypatch.setattr(Path, "chmod", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    ray_token.secure()
    assert "others can read Ray's token" in caplog.text and "Read-only file system" in caplog.text
