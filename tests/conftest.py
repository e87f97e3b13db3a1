"""Shared fixtures: one Ray for the session, one folder of prepared data and extractors, and the command line."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import tiers

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # tests share cores, which threads that spin at a barrier would waste
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


S3 = f"http://127.0.0.1:{free_port()}"
"""Chosen before Ray starts, whose workers have the environment of that moment."""
os.environ.update(ENVIRONMENT)
os.environ.update(AWS_ENDPOINT_URL=S3, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1")
for name in ("RAY_ADDRESS", "GEN_RAY_STORAGE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)
ROOT = Path(__file__).parents[1]


def until(true: Callable[[], object], seconds: float = 20) -> float:
    """Return the seconds until something is true. Fail where that takes longer than allowed."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of tests/gpu. It is here because pytest reads options only from the top conftest.py."""
    parser.addoption(
        "--device", choices=["cuda", "cpu"], help="Device of tests/gpu, for all cases. Default: cuda with -m gpu."
    )


@pytest.hookimpl(optionalhook=True)  # tests of a bare environment run without xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores, at most four: tests that start Ray or a command often wait."""
    return min(4, len(os.sched_getaffinity(0)) + 1)


def pytest_configure() -> None:
    """Disable the deadline of Hypothesis, for busy machines. tests/gpu also runs without Hypothesis."""
    tiers.GUARD.install()
    if find_spec("hypothesis"):
        from hypothesis import settings

        settings.register_profile("shared cores", deadline=None)
        settings.load_profile("shared cores")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test its tier, before pytest selects by -m."""
    tiers.mark(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let no fast test start a process or a server."""
    tiers.GUARD.test = item.nodeid if item.get_closest_marker("fast") else None
    try:
        return (yield)
    finally:
        tiers.GUARD.test = None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the reasons why tests of tests/gpu were skipped, one line each."""
    reports = terminalreporter.getreports("skipped")
    why = Counter(report.longrepr[2] for report in reports if report.nodeid.startswith("tests/gpu/"))
    for reason, number in why.items():
        terminalreporter.write_line(f"tests/gpu: {number} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray with four logical CPUs during the session; ``connected()`` finds it."""
    import ray

    folder = tempfile.mkdtemp(prefix="gr")  # short: socket paths have a limit
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the session's storage.root."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="session")
def s3() -> Iterator[Path]:
    """Return a bucket on a real S3 server on loopback, as storage.root."""
    from gen_ray.storage.paths import remote, resolve

    port = S3.rpartition(":")[2]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", int(port))):
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        bucket = resolve("s3://gen-ray-tests")
        remote(bucket)[0].mkdir("gen-ray-tests")
        yield bucket
    finally:
        server.kill()
        server.wait()


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def fault(self) -> str:
        """Return the one line on stderr."""
        [line] = self.err.splitlines()
        assert line.startswith("error: ") and "Traceback" not in line
        return line


@pytest.fixture
def gen_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Return a function of command-line words that runs gen-ray in this process."""
    from pipelines import cli

    def run(*words: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["gen-ray", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        result = capsys.readouterr()
        return CommandResult(int(ended.value.code or 0), result.out, result.err)

    return run
