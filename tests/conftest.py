"""What tests share: one Ray for the session, one folder of prepared data and extractors, and the command line."""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # tests share their cores; threads that spin at a barrier waste them
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
os.environ.update(ENVIRONMENT)
os.environ.pop("RAY_ADDRESS", None)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray with four logical CPUs for as long as the tests last; ``connected()`` finds it."""
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


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

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
def gen_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return gen-ray as a function of its words, run in this process."""
    from pipelines import cli

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["gen-ray", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run
