"""Layers of the package: imports go only from higher to lower layers."""

import json
import pkgutil
import subprocess
import sys

import pytest

import gen_ray
import pipelines
from tests.conftest import ROOT


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after a statement."""
    code = f"import sys, json\n{statement}\nprint(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def below(package: object) -> list[str]:
    return [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]  # type: ignore[attr-defined]


def test_imports_go_only_to_lower_layers() -> None:
    done = subprocess.run(["lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_engine_and_lower_layers_import_neither_ray_nor_mlflow() -> None:
    upper = ("gen_ray.cluster", "gen_ray.bench.cluster", "gen_ray.tracking", "gen_ray.serving")
    lower = [name for name in below(gen_ray) if not name.startswith(upper)]
    assert {"gen_ray.engine.training.loop", "gen_ray.families.vae", "gen_ray.maths.tables.samplers"} <= set(lower)
    assert not {"ray", "mlflow"} & loaded_by("import " + ", ".join(lower))


def test_importing_the_commands_does_no_work() -> None:
    verbs = below(pipelines)
    assert not {"torch", "ray", "mlflow", "numpy", "pydantic"} & loaded_by("import " + ", ".join(verbs))


@pytest.mark.parametrize("module", ["gen_ray.cluster.training.train", "gen_ray.tracking.runs"])
def test_importing_a_layer_writes_and_starts_nothing(module: str, tmp_path: object) -> None:
    code = f"import {module}, ray, sys; sys.exit(ray.is_initialized())" if "cluster" in module else f"import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=str(tmp_path), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not list(tmp_path.iterdir())  # type: ignore[attr-defined]
