"""The ten commands of configs/cluster/README.md for a cluster of machines, run as printed on two simulated machines."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos.namespaces import copy_of_project, machines, namespaces_allowed
from tests.conftest import ROOT

pytestmark = [pytest.mark.timeout(480, method="thread")]
FILE = "configs/cluster/local.yaml"
HEADING = "## On a cluster"


def printed() -> list[str]:
    """Return the commands of the first block below the heading."""
    text = (ROOT / "configs/cluster/README.md").read_text()
    block = re.search(r"```bash\n(.*?)```", text[text.index(f"{HEADING}\n") :], re.DOTALL)
    assert block
    return block[1].splitlines()


LINES = printed()
EXPECTED_OUTPUT = {
    "doctor": r"ok  cluster: auto answers: .*\n(.*\n)*ok  \S+ \([\d.]+\): ",
    "submit train": r"artifact .*/shared/runs/digits-vae-",
    "submit sweep": r"best: digits-vae-latent-dims-",
    "jobs list": r"train-\d.*\n(.*\n)*.*",
    "compare demo": r"digits-vae",
    "submit promote": r"digits-vae version 1 is champion|champion",
    "submit serve": r"http://127\.0\.0\.1:8000/ is the page",
    "curl": r'"id":\s*"digits-vae"',
}
"""What a line prints where all went well."""


@dataclass
class UserMachine:
    """The user's machine: a clone of the project whose cluster file names the machines."""

    clone: Path
    shared: Path
    done: list[str] = field(default_factory=list)

    def run(self, line: str) -> str:
        assert self.done == LINES[: len(self.done)] and line == LINES[len(self.done)], (
            "a line needs the lines before it"
        )
        own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        own.pop("RAY_AUTH_MODE", None)
        done = subprocess.run(
            line, shell=True, cwd=self.clone, env=own, stdin=subprocess.DEVNULL, capture_output=True, timeout=240
        )
        output = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, output[-3000:]
        self.done.append(line)
        return output


@pytest.fixture(scope="module")
def user_machine() -> Iterator[UserMachine]:
    missing = [name for name in ("ssh", "rsync", "/usr/sbin/sshd", "ip", "unshare") if not shutil.which(name)]
    assert not missing, f"apt-get install openssh-server rsync iproute2: {missing}"
    if not namespaces_allowed():
        pytest.skip("namespaces and bridges are root's to make, and not everywhere")
    with machines(2) as site:
        clone = copy_of_project(site.base)
        text = (clone / FILE).read_text()
        for printed, own in {
            "head_ip: 192.0.2.1 ": f"head_ip: {site.addresses[0]} ",
            "[192.0.2.2, 192.0.2.3]": f"[{site.addresses[1]}]",
            "ssh_user: ubuntu": "ssh_user: ray",
            "~/.ssh/id_ed25519": str(site.key),
            "/srv/gen_ray": str(site.shared),
        }.items():
            assert text.count(printed) == 1, printed
            text = text.replace(printed, own)
        (clone / FILE).write_text(text)
        yield UserMachine(clone, site.shared)


def test_the_block_has_ten_commands() -> None:
    assert len(LINES) == 10


@pytest.mark.parametrize("line", LINES)
def test_a_command_has_the_stated_result(user_machine: UserMachine, line: str) -> None:
    output = user_machine.run(line)
    for word, pattern in EXPECTED_OUTPUT.items():
        if word in line:
            assert re.search(pattern, output), output[-3000:]
    if line.startswith("ray up"):
        token = user_machine.shared.parent / "machine1" / "home" / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600 and token.read_text() not in output
