"""The folders of runs below storage.root, and how a MODEL on the command line is found."""

import re
import time
from pathlib import Path
from typing import Any

import yaml

from gen_ray.errors import UserError, nearest
from gen_ray.experiment import Experiment, parse

ARTIFACT = "artifact"


def folder(experiment: Experiment, run_id: str) -> Path:
    """Return the folder of a run: config.yaml, checkpoints, and the artifact once it is evaluated."""
    return experiment.storage.root / "runs" / run_id


def new_id(experiment: Experiment) -> str:
    """Return a run id that is not taken: the run's name and the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = f"{experiment.name}-{stamp}"
    number = 1
    while folder(experiment, base if number == 1 else f"{base}-{number}").exists():
        number += 1
    return base if number == 1 else f"{base}-{number}"


def unfinished(experiment: Experiment) -> str:
    """Return the newest run of this name that has no artifact yet. Raise UserError where there is none to resume.

    Its settings must be the ones asked for: a run resumed under others would be neither the one nor the other.
    """
    stamp = re.compile(re.escape(experiment.name) + r"-\d{8}-\d{6}(-\d+)?")
    home = experiment.storage.root / "runs"
    found = [p for p in home.glob(f"{experiment.name}-*") if stamp.fullmatch(p.name) and not (p / ARTIFACT).exists()]
    if not found:
        raise UserError(f"--resume: no unfinished run named {experiment.name!r} in {home}")
    newest = max(found, key=lambda p: p.name)
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
    (home / "config.yaml").write_text(yaml.safe_dump(experiment.resolved(), sort_keys=False))
    return home


def load(home: Path) -> Experiment:
    """Return the configuration of a run's folder."""
    raw: dict[str, Any] = yaml.safe_load((home / "config.yaml").read_text())
    return parse(raw)


def find_artifact(model: str, root: Path) -> Path:
    """Return the artifact folder that MODEL names: a folder, a run id, or a run's name (its newest run).

    Raise UserError naming where it was looked for and the nearest run.
    """
    given = Path(model).expanduser()
    for place in (given, given / ARTIFACT, root / "runs" / model / ARTIFACT):
        if (place / "meta.json").is_file():
            return place.absolute()
    runs = sorted(p.name for p in (root / "runs").glob("*") if (p / ARTIFACT).is_dir())
    named = [run for run in runs if re.fullmatch(re.escape(model) + r"-\d{8}-\d{6}(-\d+)?", run)]
    if named:
        return (root / "runs" / named[-1] / ARTIFACT).absolute()
    raise UserError(
        f"{model}: no such artifact folder, and no finished run of that name in {root / 'runs'}; {nearest(model, runs)}"
    )
