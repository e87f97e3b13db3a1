"""Machines simulated with namespaces: each has its own address, processes, home folder and ssh server."""

import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

NET = "10.99.77"
BRIDGE, HOST_ADDRESS = "grbridge", f"{NET}.254"
MACHINE_SCRIPT = """
set -e
mount --bind {base}/{name}/passwd /etc/passwd
mount --bind {base}/{name}/home {base}/home
mkdir -p /tmp/ray && mount --bind {base}/{name}/tmp /tmp/ray
mkdir -p /run/sshd
hostname {name}
ip link set lo up
exec /usr/sbin/sshd -D -e -f {base}/{name}/sshd_config
"""
SSHD_CONFIG = """
ListenAddress {address}
HostKey {base}/key
AuthorizedKeysFile {base}/key.pub
PidFile none
UsePAM no
StrictModes no
MaxStartups 100
SetEnv PYTHONPATH={packages} PIP_NO_DEPS=1 PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1
"""
"""Packages that an installation would download are already present; downloads would take most of the test's time."""


@dataclass(frozen=True)
class Site:
    """The addresses of the machines (the head first), the ssh key of all of them, and their shared folder."""

    addresses: Sequence[str]
    key: Path
    shared: Path
    base: Path


@contextmanager
def machines(count: int) -> Iterator[Site]:
    """Yield a site of count machines."""
    base = Path(tempfile.mkdtemp(prefix="gr", dir="/var/tmp"))  # not /tmp, which is separate on each machine
    run_command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / "key")
    for folder in (base / "shared", base / "home"):
        folder.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        run_command("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(run_command, "ip", "link", "del", BRIDGE)
        run_command("ip", "addr", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE)
        run_command("ip", "link", "set", BRIDGE, "up")
        addresses = [stack.enter_context(_machine(base, number)) for number in range(1, count + 1)]
        yield Site(addresses, base / "key", base / "shared", base)


@contextmanager
def _machine(base: Path, number: int) -> Iterator[str]:
    name, address = f"machine{number}", f"{NET}.{number}"
    own = base / name
    for folder in (own / "home", own / "tmp"):
        folder.mkdir(parents=True)
    (own / "passwd").write_text(f"ray:x:0:0::{base}/home:/bin/bash\n{Path('/etc/passwd').read_text()}")
    # An environment without dependencies lacks the ray command, so that of these tests is used.
    (own / "home" / ".bash_profile").write_text(f"export PATH=$PATH:{Path(sys.executable).parent}\n. ~/.bashrc\n")
    (own / "home" / ".bashrc").touch()
    packages = site.getsitepackages()[0]
    (own / "sshd_config").write_text(SSHD_CONFIG.format(address=address, base=base, packages=packages))
    net, veth = f"gr{number}", f"grveth{number}"
    run_command("ip", "netns", "add", net)
    run_command("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", net)
    run_command("ip", "link", "set", veth, "master", BRIDGE, "up")
    run_command("ip", "-n", net, "addr", "add", f"{address}/24", "dev", "eth0")
    run_command("ip", "-n", net, "link", "set", "eth0", "up")
    run_command("ip", "-n", net, "route", "add", "default", "via", HOST_ADDRESS)  # Ray finds its own address by it
    apart = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc"]
    inside = MACHINE_SCRIPT.format(base=base, name=name)
    log = (own / "sshd.log").open("wb")
    process = subprocess.Popen(["ip", "netns", "exec", net, *apart, "bash", "-c", inside], stdout=log, stderr=log)
    try:
        _answers(address, base / "key", process, own / "sshd.log")
        yield address
    finally:
        process.kill()  # ends all processes of the machine with its first one
        process.wait()
        log.close()
        run_command("ip", "link", "del", veth)  # otherwise its end in the namespace keeps it
        run_command("ip", "netns", "del", net)


def _answers(address: str, key: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    words = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=2"]
    until = time.monotonic() + 30
    while subprocess.run(
        ["ssh", *words, "-i", str(key), f"ray@{address}", "true"], capture_output=True, check=False
    ).returncode:
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def namespaces_allowed() -> bool:
    """Return whether this process may create namespaces and bridges, like root on a separate machine."""
    apart = subprocess.run(["unshare", "--pid", "--net", "--mount", "--fork", "true"], capture_output=True, check=False)
    bridge = ["type", "bridge"]
    made = subprocess.run(["ip", "link", "add", "grprobe", *bridge], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", "grprobe"], capture_output=True, check=False)
    return not apart.returncode and not made.returncode


def copy_of_project(base: Path) -> Path:
    """Return a clone of the project that includes uncommitted changes."""
    clone = base / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    return clone


def run_command(*words: object) -> None:
    """Run a system command and check that it succeeded."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, env={**os.environ})
    assert not done.returncode, done.stderr
