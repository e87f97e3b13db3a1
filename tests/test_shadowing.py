"""User files that have the name of a package."""

import subprocess
import sys
from pathlib import Path

import pytest

from gen_ray.host import shadowing
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["mlflow.py", "pandas.py", "token.py", "numpy/__init__.py"])
def test_a_file_that_shadows_a_package_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('x')")
    (tmp_path / "notes.py").touch()
    (tmp_path / "docs").mkdir()
    assert [found.name for found in shadowing.shadows(tmp_path)] == [Path(name).parts[0]]


@pytest.mark.parametrize("first", [True, False])
def test_it_is_refused_only_where_python_searches_there_first(first: bool, tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("raise SystemExit('x')")
    words = ["-m", "pipelines.cli", "compare", "--help"]
    way = [] if first else ["-P"]
    done = subprocess.run(
        [sys.executable, *way, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (2 if first else 0), done.stderr
    assert not first or (str(tmp_path) in done.stderr and "pandas.py would be imported instead" in done.stderr)


@pytest.mark.parametrize("name", ["token.py", "random.py", "types.py"])
def test_a_file_that_shadows_pythons_own_modules_does_not_disturb_gen_ray(name: str, tmp_path: Path) -> None:
    """With ``python -m`` but without -P, Python imports it before any code of this project."""
    (tmp_path / name).write_text("raise SystemExit('x')")
    command = str(Path(sys.executable).parent / "gen-ray")
    for words in ([command], [sys.executable, "-P", "-m", "pipelines.cli"]):
        done = subprocess.run(
            [*words, "compare", "--help"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "Usage" in done.stdout, done.stderr
