"""A separate head node, started by the launcher with its own ports and folders, and stopped by process ids."""

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

from tests.conftest import ROOT, CommandResult, free_port


@dataclass(frozen=True)
class Head:
    """The addresses of a head, and the environment of a client that has its token."""

    dashboard: str
    address: str
    home: Path
    folder: Path
    environment: dict[str, str]

    @property
    def token(self) -> str:
        """Return the secret token of the cluster."""
        return (self.home / ".ray" / "auth_token").read_text()

    def gen_ray(self, *words: object, cwd: Path = ROOT, seconds: float = 200, **changed: str) -> CommandResult:
        """Run gen-ray and return its exit code and output."""
        command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
        env = {**self.environment, **changed}
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=seconds)
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def processes(self) -> list[psutil.Process]:
        """Return the processes of this head's Ray."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if str(self.folder) in " ".join(process.cmdline()):
                    found.append(process)
        return found


@contextmanager
def running_head(*, cpus: int = 1, insecure: bool = False, **variables: str) -> Iterator[Head]:
    """Yield a head that runs during the block."""
    folder, home = Path(tempfile.mkdtemp(prefix="gr")), Path(tempfile.mkdtemp(prefix="grh"))
    port, dashboard = free_port(), free_port()
    variables_of_user = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    own = {
        **variables_of_user,
        "HOME": str(home),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        **variables,
    }
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
