"""The package lists of README.md are exact: the tests run with them, and import every package of them."""

import json
import os
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.gpu import bare

RUN = """
import json, sys, pytest
code = pytest.main(sys.argv[1:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(code)
"""
CASES = (
    "test_likelihood and score_sde-vp-v-likelihood-mlp or test_resumed_training_is and vae-float32 "
    "or test_latent_codes or test_cluster"
)
"""An ODE solver, a training with pictures and checkpoints, latent codes; what needs Ray is skipped."""

PARTS = ("Engine tests", "Cluster tests", "Benchmark")
TORCH = {name: distribution(name).version for name in bare.required("torch")}
"""Versions of torch and of what torch requires, which are not listed."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DIRECTLY = PROJECT["project"]["dependencies"]


def bare_run(folder: Path, packages: list[str], code: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in an environment of these packages, and assert that it ends well."""
    python = bare.make(folder / "bare", packages)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    path = os.pathsep.join([str(folder / "bare" / "site"), str(ROOT)])
    done = subprocess.run(
        [python, "-c", code, *words], cwd=ROOT, env={**own, "PYTHONPATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def pytest_words(folder: Path, *words: str) -> list[str]:
    """Return the words of a pytest without plug-ins."""
    plain = ["-o", "addopts=", "-p", "no:cacheprovider", "-q", f"--basetemp={folder / 'tests'}"]
    return [*plain, "-m", "gpu", "--device", "cpu", *words]


def test_engine_part_runs_with_the_packages_of_the_page(tmp_path: Path) -> None:
    packages = list(bare.listed("Engine tests"))
    done = bare_run(tmp_path, packages, RUN, *pytest_words(tmp_path, "tests/gpu", "-k", CASES))
    assert "skipped: ray and mlflow are not both installed" in done.stdout, done.stdout
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert [name for name in packages if not bare.modules(name) & imported] == []


def test_cluster_part_lists_only_what_is_required() -> None:
    required = bare.required(*DIRECTLY) - bare.required("torch") - set(bare.listed("Engine tests"))
    assert set(bare.listed("Cluster tests")) <= required


def test_listed_versions_go_together() -> None:
    """pip does not look at requirements with --no-deps. Those of a package are known where its version is installed."""
    listed = {name: version for part in PARTS for name, version in bare.listed(part).items()}
    known = [name for name, version in listed.items() if distribution(name).version == version]
    wrong = [
        f"{name} requires {one}"
        for name in known
        for one in map(Requirement, distribution(name).requires or [])
        if (one.marker is None or one.marker.evaluate({"extra": ""}))
        and not one.specifier.contains(
            listed.get(canonicalize_name(one.name), TORCH.get(canonicalize_name(one.name), "0"))
        )
    ]
    assert wrong == []


@pytest.mark.soak
def test_benchmark_runs_with_the_packages_of_the_page(tmp_path: Path) -> None:
    runner = {"iniconfig", "packaging", "pluggy", "pytest"}
    packages = [*(bare.listed("Engine tests").keys() - runner), *bare.listed("Benchmark")]
    verb = "import runpy; runpy.run_module('pipelines.bench', run_name='__main__')"
    bare_run(tmp_path, packages, verb, "gpu", "--device", "cpu", "--seconds", "0")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_cluster_part_runs_with_the_packages_of_the_page(tmp_path: Path) -> None:
    packages = [*bare.listed("Engine tests"), *bare.listed("Cluster tests")]
    bare_run(tmp_path, packages, RUN, *pytest_words(tmp_path, "tests/gpu/test_cluster.py"))
