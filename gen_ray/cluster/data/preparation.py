"""The prepared data of an experiment, in its storage folder."""

from collections.abc import Callable
from pathlib import Path

from gen_ray import run_directory
from gen_ray.datasets.prepare import BadRows, find, prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.experiment import Experiment
from gen_ray.storage import paths


def prepare_data(experiment: Experiment, progress: Callable[[int], None] | None = None) -> Prepared:
    """Return the experiment's data set; prepare it if necessary."""
    data = experiment.data
    paths.check(experiment.storage.root)
    return prepare(
        data.source,
        root=data.root,
        out=experiment.storage.root / "data",
        options=data.options,
        on_bad_row=BadRows.parse(data.on_bad_row),
        progress=progress,
    )


def training_data(experiment: Experiment, artifact: Path) -> Prepared:
    """Return the prepared data that an artifact was trained on, from storage.root; prepare them again if missing."""
    paths.check(experiment.storage.root)
    folder = find(experiment.storage.root / "data", run_directory.meta(artifact)["data_fingerprint"])
    return folder or prepare_data(experiment)
