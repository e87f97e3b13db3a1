"""The folders of runs below storage.root, and how a MODEL on the command line is found."""

import re
import time
from pathlib import Path
from typing import Any

import yaml

from gen_ray import storage, yaml12
from gen_ray.errors import UserError, nearest
from gen_ray.experiment import Experiment, parse

ARTIFACT, CONFIG = "artifact", "config.yaml"
REGISTERED = "models:/"
"""What a MODEL begins with that is in MLflow's registry and not a folder."""
RUN = r"-(\d{8}-\d{6})(?:-(\d+))?"
"""What follows a run's name in its id: the time, and a number where several runs began in one second."""


def folder(experiment: Experiment, run_id: str) -> Path:
    """Return the folder of a run: config.yaml, checkpoints, and the artifact once it is evaluated."""
    return experiment.storage.root / "runs" / run_id


def new_id(experiment: Experiment) -> str:
    """Return a run id that is not taken: the run's name and the time."""
    return fresh(experiment.name, experiment.storage.root / "runs")


def fresh(name: str, home: Path) -> str:
    """Return a folder's name that is not taken in home: a name and the time."""
    base, number = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}", 1
    while (home / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    return base if number == 1 else f"{base}-{number}"


def unfinished(experiment: Experiment) -> str:
    """Return the newest run of this name that has no artifact yet. Raise UserError where there is none to resume.

    Its settings must be the ones asked for: a run resumed under others would be neither the one nor the other.
    """
    home = experiment.storage.root / "runs"
    found = [run for run in named(experiment.name, home) if not (run / ARTIFACT).exists()]
    if not found:
        raise UserError(f"--resume: no unfinished run named {experiment.name!r} in {home}")
    newest = found[-1]
    before, now = load(newest).flat(), experiment.flat()
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        raise UserError(f"--resume: {key} was {before.get(key)!r} in {newest.name}, now it is {now.get(key)!r}")
    return newest.name


def save(experiment: Experiment, run_id: str) -> Path:
    """Write the resolved configuration into the run's folder and return the folder."""
    home = folder(experiment, run_id)
    home.mkdir(parents=True, exist_ok=True)
    storage.write_whole(home / CONFIG, yaml12.dump(experiment.resolved()))
    return home


def load(home: Path) -> Experiment:
    """Return the configuration of a run's folder."""
    raw: dict[str, Any] = yaml.safe_load((home / CONFIG).read_text())
    return parse(raw)


def find_artifact(model: str, root: Path) -> Path:
    """Return the artifact folder that MODEL names: a folder, a run id, or a run's name (its newest run).

    Raise UserError naming where it was looked for and the nearest run.
    """
    storage.check(root)
    given = storage.place(model)
    for folder in (given, given / ARTIFACT, root / "runs" / model / ARTIFACT):
        if (folder / "meta.json").is_file():
            return folder.absolute()
    finished = [run / ARTIFACT for run in named(model, root / "runs") if (run / ARTIFACT).is_dir()]
    if finished:
        return finished[-1].absolute()
    runs = [run.parent.name for run in (root / "runs").glob(f"*/{ARTIFACT}")]
    raise UserError(
        f"{model}: no such artifact folder, and no finished run of that name in {root / 'runs'}; {nearest(model, runs)}"
    )


def named(name: str, home: Path) -> list[Path]:
    """Return the folders of the runs of a name, oldest first."""
    found = ((re.fullmatch(re.escape(name) + RUN, run.name), run) for run in home.glob("*"))
    return [run for _, _, run in sorted((match[1], int(match[2] or 1), run) for match, run in found if match)]
