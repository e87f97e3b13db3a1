"""Runs that are long enough to be disturbed, and their results without disturbance."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.experiment import Experiment, parse
from gen_ray.tracking.runs import RunRow, rows
from gen_ray.tracking.store import Store
from tests.cluster.tiny_runs import through_ray, tiny

MLP = {"name": "mlp", "width": 16, "depth": 1}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "vae": {"name": "vae", "latent_dim": 4, "net": {"name": "mlp", "hidden": [16]}},
    "ddpm": {"name": "ddpm", "steps": 20, "net": MLP},
    "discrete": {"name": "discrete", "net": {"name": "tokens", "width": 16, "depth": 1, "heads": 2}},
    "score_sde": {"name": "score_sde", "steps": 20, "net": MLP},
}


def long_experiment(
    storage: Path, name: str, family: str = "vae", tracking: Mapping[str, Any] | None = None, **scaling: Any
) -> Experiment:
    """Return the experiment of a run of 137 steps with a checkpoint after each step."""
    training = {"epochs": 12, "validate_every_epochs": 6, "sample_every_epochs": 100}
    found = tiny(storage, training=training, scaling={"num_workers": 2, "max_failures": 3, **scaling})
    changed = {"name": name, "family": FAMILIES[family], "tracking": tracking or {"experiment": name}}
    return parse({**found.resolved(), **changed})


def newest_step(experiment: Experiment) -> int:
    """Return the step of the newest checkpoint of any run of this name, or 0."""
    found = (experiment.storage.root / "runs").glob(f"{experiment.name}-*/checkpoints/step-*")
    return max((int(folder.name.removeprefix("step-")) for folder in found), default=0)


def partial_folders(experiment: Experiment) -> list[Path]:
    """Return the partly written folders in all runs of this name."""
    return list((experiment.storage.root / "runs").glob(f"{experiment.name}-*/*/.step-*"))


def only_row(experiment: Experiment) -> RunRow:
    [row] = rows(Store.of_experiment(experiment))
    return row


@cache
def undisturbed_weights(storage: Path, family: str = "vae") -> dict[str, Any]:
    """Return the result of an undisturbed run of a family."""
    experiment = long_experiment(storage, f"calm-{family.replace('_', '-')}", family)
    return through_ray(experiment, prepare_data(experiment), experiment.name)[0]
