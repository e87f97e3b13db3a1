"""The tiers of the tests (tests/README.md): which marks a test gets from its place, its fixtures and its imports."""

import ast
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEPARATE = ("browser", "chaos", "soak")
"""Tiers that plain pytest leaves out. A test belongs to at most one of them."""

SLOW_IMPORTS = ("ray", "mlflow", "subprocess", "multiprocessing", "uvicorn", "gen_ray.cluster", "gen_ray.bench.cluster")
"""A file of tests that imports one of these, itself or through another file of tests, may start processes."""

SLOW_FIXTURES = ("cluster", "s3", "browser")
TIERS = pytest.StashKey[dict[str, set[str]]]()
"""The collected tests of each tier, without parameters."""

FEW_CASES = (
    ("vae", "categorical-conv"),
    ("ddpm", "eps-learned-simple-cosine-dit"),
    ("ddpm", "eps-small-vlb-learned-unet"),
    ("discrete", "absorbing-hybrid-text"),
    ("score_sde", "subvp-dit"),
)
"""Each family, each kind of net, and a learned schedule, for tests that would take long with all cases."""

STARTED = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "socket.bind")
"""Audit events of a process or a server that starts."""

ALLOWED = ("git", "lscpu", "nvidia-smi", "uname")
"""Programs that a fast test may start: they answer at once, e.g. with the number of cores, which joblib asks for."""


def mark(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Add the marks chaos and fast, and refuse a test with two tiers."""
    found = config.stash[TIERS] = {name: set() for name in ("fast", *SEPARATE, "ordinary")}
    for item in items:
        parts = Path(item.path).relative_to(ROOT / "tests").parts
        if parts[0] == "chaos" and not item.get_closest_marker("soak"):
            item.add_marker("chaos")
        tiers = [name for name in SEPARATE if item.get_closest_marker(name)]
        if len(tiers) > 1:
            raise pytest.UsageError(f"{item.nodeid}: has the tiers {' and '.join(tiers)}, only one is allowed")
        name = item.nodeid.partition("[")[0]
        found[tiers[0] if tiers else "ordinary"].add(name)
        if not tiers and is_fast(item):
            item.add_marker("fast")
            found["fast"].add(name)


def is_fast(item: pytest.Item) -> bool:
    """Return whether a test starts no process and no server, and is not one of many similar cases of a family."""
    fixtures = getattr(item, "fixturenames", ())
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    case = parameters.get("case")
    if case is not None and hasattr(case, "family") and (case.family, case.name) not in FEW_CASES:
        return False
    return not (
        item.get_closest_marker("slow")
        or set(SLOW_FIXTURES) & {*fixtures, *map(str, parameters.values())}
        or starts_processes(Path(item.path))
    )


@cache
def starts_processes(file: Path) -> bool:
    """Return whether a file of tests imports what starts processes, itself or through another file of tests."""
    names = set(imported(file))
    if any(name == slow or name.startswith(f"{slow}.") for name in names for slow in SLOW_IMPORTS):
        return True
    helpers = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests.")}
    return any(
        starts_processes(helper) for helper in helpers - {file, ROOT / "tests" / "conftest.py"} if helper.exists()
    )


def imported(file: Path) -> Iterable[str]:
    """Yield the modules that a file imports anywhere, and the names imported from them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


class Guard:
    """Makes a fast test fail where it starts a process or a server. ``test`` is the fast test that is running."""

    test: str | None = None

    def install(self) -> None:
        """Watch the interpreter's audit events from now on; Python cannot remove such a hook."""
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.test and event in STARTED and str(arguments[0]) not in ALLOWED:
            pytest.fail(f"{self.test} is in the fast tier and may not start a process or a server: {event} {arguments}")


GUARD = Guard()
