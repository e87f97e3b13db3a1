"""The folders of runs below storage.root, and the search for a MODEL of the command line."""

import json
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from gen_ray.configuration import yaml12
from gen_ray.errors import UserError, argument, nearest
from gen_ray.experiment import Experiment
from gen_ray.experiment import load as load_settings
from gen_ray.storage import paths

RUNS, ARTIFACT, CONFIG, META = "runs", "artifact", "config.yaml", "meta.json"
ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
REGISTERED = "models:/"
"""Prefix of a MODEL in MLflow's registry."""
MLFLOW_RUN = re.compile(r"runs:/.*|[0-9a-f]{32}(/.*)?")
"""Pattern of a MODEL that names a run of MLflow: its id, or runs:/ID."""
RUN = r"-(\d{8}-\d{6})(?:-(?:(\d+)|r[0-9a-f]{8}))?"
"""Suffix of a run's id after its name: the time, and a number if several runs start in one second.

On an object store, where folders cannot be created exclusively, the number is random: r and eight hex digits.
"""


def folder(experiment: Experiment, run_id: str) -> Path:
    """Return the folder of a run. It holds config.yaml, checkpoints, and the artifact after the evaluation."""
    return experiment.storage.root / RUNS / run_id


def new_id(experiment: Experiment) -> str:
    """Create the folder of a new run and return the run's id: its name and the time."""
    return create(experiment.name, experiment.storage.root / RUNS).name


def create(name: str, home: Path) -> Path:
    """Create a folder in home, named by a name and the time, and return it. No other process has the same folder."""
    base = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if paths.is_remote(home):
        return home / f"{base}-r{secrets.token_hex(4)}"
    for number in count(1):
        folder = home / (base if number == 1 else f"{base}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")


def save(experiment: Experiment, run_id: str) -> Path:
    """Write the resolved configuration into the run's folder and return the folder."""
    home = folder(experiment, run_id)
    home.mkdir(parents=True, exist_ok=True)
    paths.write_atomic(home / CONFIG, yaml12.dump(experiment.resolved()))
    return home


def load(home: Path) -> Experiment:
    """Return the configuration of a run's folder. Raise UserError with the file if it cannot be read."""
    return load_settings(home / CONFIG, saved=True)


def settings(artifact: Path, root: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Return the configuration with which an artifact was trained, changed by overrides. Raise UserError.

    Its storage.root is the present one, because the storage may have been moved or copied after training.
    """
    experiment = paths.read(artifact, lambda found: load_settings(found / CONFIG, overrides, saved=True))
    return at(experiment, root_of(artifact, root))


def at(experiment: Experiment, root: Path) -> Experiment:
    """Return an experiment with another storage.root."""
    return experiment.model_copy(update={"storage": experiment.storage.model_copy(update={"root": root})})


def root_of(artifact: Path, root: Path) -> Path:
    """Return the storage.root that contains an artifact folder, or root if the folder is not in a run's folder."""
    home = artifact.parent.parent
    return home.parent if (artifact.name, home.name) == (ARTIFACT, RUNS) else root


def meta(artifact: Path) -> dict[str, Any]:
    """Return the metadata that training wrote into an artifact folder (``engine.artifact.describe``)."""
    metadata: dict[str, Any] = paths.read(artifact, lambda copy: json.loads((copy / META).read_text(encoding="utf-8")))
    return metadata


def run_of(artifact: Path) -> str:
    """Return the id of the run of an artifact folder. Raise UserError if its metadata lack the id."""
    try:
        return checked_id(str(meta(artifact)["run_id"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{artifact / META}: does not name the run of the artifact ({error})") from None


def checked_id(run_id: str) -> str:
    """Return a run's id unchanged. Raise ValueError for any other text, which must not become part of a path."""
    if not re.fullmatch(ID, run_id):
        raise ValueError(f"{run_id[:80]!r} cannot be the id of a run")
    return run_id


def artifact_of(run_id: str, root: Path) -> Path:
    """Return the artifact folder of a run below root. Raise UserError.

    The id may come from a tag in MLflow, which any of its users can set, and is never used as a path.
    """
    try:
        artifact = root / RUNS / checked_id(run_id) / ARTIFACT
    except ValueError as error:
        raise UserError(str(error)) from None
    if not paths.exists(artifact):
        raise UserError(f"{run_id}: no such finished run in {root / 'runs'}")
    return artifact


def find_artifact(model: str, root: Path) -> Path:
    """Return the artifact folder of MODEL: a folder, a run id, or a run's name (its newest run).

    Raise UserError with the places that were searched, and the nearest run or another remedy.
    """
    paths.check(root)
    path = paths.resolve(model)
    for folder in (path, path / ARTIFACT, root / RUNS / model / ARTIFACT):
        if paths.exists(folder) and (paths.current_version(folder) / META).is_file():
            return folder.absolute()
    finished = [run / ARTIFACT for run in named(model, root / RUNS) if paths.exists(run / ARTIFACT)]
    if finished:
        return finished[-1].absolute()
    raise UserError(f"{model}: {_missing(model, path, root)}")


def _missing(model: str, path: Path, root: Path) -> str:
    """Return the reason why MODEL is not an artifact, and the remedy."""
    home = root / RUNS
    if path.exists():
        kind = "a folder" if path.is_dir() else "a file"
        return f"is {kind}, but not an artifact folder (it holds no {META}); runs have theirs in {home}/*/{ARTIFACT}"
    line = "no such artifact folder, and no finished run of that name"
    if (home / model).exists() or named(model, home):
        remedy = f"{argument('resume')} of gen-ray train continues one"
        return f"{line}: the runs of that name in {home} have not finished; {remedy}"
    elsewhere = f"{argument('storage')} or {paths.ENVIRONMENT} names another storage folder"
    if not root.exists():
        return f"{line}: the storage folder {root} does not exist; {elsewhere}"
    runs = [run.parent.name for run in home.glob(f"*/{ARTIFACT}")]
    if not runs:
        return f"{line}: {home} holds no finished runs; {elsewhere}"
    return f"{line} in {home}; {nearest(model, runs)}"


def named(name: str, home: Path) -> list[Path]:
    """Return the folders of the runs of a name, oldest first."""
    found = ((re.fullmatch(re.escape(name) + RUN, run.name), run) for run in home.glob("*"))
    return [run for _, _, run in sorted((match[1], int(match[2] or 1), run) for match, run in found if match)]
