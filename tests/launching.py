"""Dry execution of commands: they run until they would start something."""

import contextlib
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from tests.conftest import ROOT


class Started(BaseException):
    """Raised instead of the start or use of a process, a cluster, a data set, a model or an MLflow store."""


def start(*_: Any, **__: Any) -> Any:
    """Raise Started."""
    raise Started


STARTS = (
    "ray.init",
    "ray.job_submission.JobSubmissionClient.__init__",
    "subprocess.Popen.__init__",
    "mlflow.MlflowClient.__init__",
    "gen_ray.run_directory.find_artifact",
    "gen_ray.storage.paths.check",
    "gen_ray.datasets.prepare.prepare",
    "gen_ray.cluster.data.preparation.prepare",  # bound at import, so imported before the line above takes effect
    "gen_ray.datasets.prepare.opened",
)

PASSED = ("gen_ray.bench.cluster.streaming._write", "gen_ray.bench.cluster.streaming.prepare")
"""Left out: they write 800 MB of noise before the benchmark starts Ray."""


def carry_out(words: list[str], variables: Mapping[str, str], folder: Path) -> None:
    """Run gen-ray with a machine's environment until it starts something. Fail with its error if it refuses."""
    with pytest.MonkeyPatch.context() as patch:
        starts, passed = ([_resolved(name) for name in names] for names in (STARTS, PASSED))
        for target, attribute in starts:
            patch.setattr(target, attribute, start)
        for target, attribute in passed:
            patch.setattr(target, attribute, lambda *_, **__: None)
        patch.setattr("gen_ray.tracking.store.Store.exists", property(start))
        patch.setattr("ray.is_initialized", lambda: False)
        patch.setattr("gen_ray.cluster.nodes.preflight.reach", lambda *_: None)
        patch.setattr(
            "gen_ray.cluster.nodes.ports.reserve", lambda *_: contextlib.nullcontext()
        )  # of this machine at this time
        patch.setattr("pipelines.serve._sources", lambda models, *_: {model: model for model in models or ["toy"]})
        for name, value in {"HOME": str(folder), "GEN_RAY_STORAGE": str(folder), **variables}.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["gen-ray", *words])
        try:
            cli.main()
        except Started:
            return
        except SystemExit as ended:
            if ended.code:
                pytest.fail(f"gen-ray {' '.join(words)}: refused by its own checks")


def _resolved(name: str) -> tuple[Any, str]:
    """Return the owner and the name of an attribute; all modules are imported before attributes are replaced."""
    path, _, attribute = name.rpartition(".")
    return pkgutil.resolve_name(path), attribute


def job(words: list[str]) -> list[str] | None:
    """Return the command that gen-ray submit runs on the cluster; None for other commands."""
    if words[:1] != ["submit"]:
        return None
    return next(words[i:] for i, word in enumerate(words) if word in cli_verbs())


def cli_verbs() -> tuple[str, ...]:
    """Return the commands that may be submitted."""
    from pipelines.submit import VERBS

    return VERBS
