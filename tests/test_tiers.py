"""The tiers: each test has one, the fast tier starts nothing, and tests/README.md lists faults and soak tests."""

import ast
import os
import re
import shutil
import socket

import pytest

from tests.conftest import ROOT
from tests.tiers import GUARD, SEPARATE, TIERS, starts_processes

PAGE = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")


def listed(heading: str) -> set[str]:
    """Return the tests that the table below a heading of tests/README.md names."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", section))


@pytest.fixture
def tiers(request: pytest.FixtureRequest) -> dict[str, set[str]]:
    """Return the collected tests of each tier, without parameters."""
    return request.config.stash[TIERS]


def test_every_soak_test_is_listed(tiers: dict[str, set[str]]) -> None:
    assert tiers["soak"] <= listed("Soak")


@pytest.mark.parametrize("heading", ["Faults", "Soak"])
def test_every_listed_test_exists(heading: str) -> None:
    for name in listed(heading):
        file, _, function = name.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_every_soak_test_has_the_date_of_its_last_run() -> None:
    rows = [row for row in PAGE.split("## Soak\n")[1].splitlines() if row.startswith("| `tests/")]
    assert len(rows) == len(listed("Soak"))
    assert all(re.search(r"\| 20\d\d-\d\d-\d\d \|$", row) for row in rows)


def test_plain_pytest_leaves_out_the_separate_tiers() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"-m '{' and '.join(f'not {name}' for name in ('chaos', 'soak', 'browser'))}'" in settings
    assert set(SEPARATE) == {"chaos", "soak", "browser"}


def test_no_fast_test_is_in_a_file_that_starts_processes(tiers: dict[str, set[str]]) -> None:
    files = {ROOT / name.partition("::")[0] for name in tiers["fast"]}
    assert files and not [file for file in files if starts_processes(file)]
    assert starts_processes(ROOT / "tests" / "chaos" / "test_killed.py")
    assert starts_processes(ROOT / "tests" / "cluster" / "test_queue.py"), "through an import of another file"


def test_a_fast_test_that_starts_a_process_or_a_server_fails() -> None:
    assert GUARD.test is not None, "this test is fast"
    true = shutil.which("true")
    assert true
    with pytest.raises(pytest.fail.Exception, match=r"os\.posix_spawn"):
        os.posix_spawn(true, [true], {})
    with socket.socket() as server, pytest.raises(pytest.fail.Exception, match=r"socket\.bind"):
        server.bind(("127.0.0.1", 0))
