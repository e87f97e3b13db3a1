"""A head of one's own, started by the launcher, on ports and in folders of its own; ended by its processes' ids."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from tests.conftest import ROOT, Said, free_port


@dataclass(frozen=True)
class Head:
    """Where it is, and the environment of somebody who has its token."""

    dashboard: str
    address: str
    home: Path
    folder: Path
    environment: dict[str, str]

    @property
    def token(self) -> str:
        """Return what only those who may are to know."""
        return (self.home / ".ray" / "auth_token").read_text()

    def gen_ray(self, *words: object, cwd: Path = ROOT, seconds: float = 200, **changed: str) -> Said:
        """Return how gen-ray ended and what it said."""
        command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
        env = {**self.environment, **changed}
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=seconds)
        return Said(done.returncode, done.stdout, done.stderr)

    def processes(self) -> list[psutil.Process]:
        """Return Ray's processes."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if str(self.folder) in " ".join(process.cmdline()):
                    found.append(process)
        return found


@contextmanager
def started(*, cpus: int = 1, insecure: bool = False, **variables: str) -> Iterator[Head]:
    """Give a head that runs while the block does."""
    folder, home = Path(tempfile.mkdtemp(prefix="gr")), Path(tempfile.mkdtemp(prefix="grh"))
    port, dashboard = free_port(), free_port()
    calm = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    own = {**calm, "HOME": str(home), "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}", **variables}
    found = Head(own["RAY_API_SERVER_ADDRESS"], f"127.0.0.1:{port}", home, folder, own)
    command = [
        *(sys.executable, "-m", "pipelines.cli", "start", "head", "--port", port, "--dashboard-port", dashboard),
        *(["--insecure"] if insecure else []),
        *("--", "--block", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"),
        *(f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"),
    ]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=own, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 90
    try:
        while not _answers(found):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        yield found
    finally:
        for one in [process, *psutil.Process(process.pid).children(recursive=True), *found.processes()]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        for left in (folder, home):
            shutil.rmtree(left, ignore_errors=True)


def _answers(head: Head) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{head.dashboard}/api/jobs/", timeout=5).status_code in (200, 401)
    return False
