"""The prepared data of a sweep's trials: one data set, or one for each searched number of intervals of a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from gen_ray.cluster.data.blocks import cached
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.data.reading import Splits
from gen_ray.cluster.jobs.waiting import awaited
from gen_ray.datasets.prepared import Prepared
from gen_ray.dataspec import DataSpec
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.sweeps.axes import Point
from gen_ray.sweeps.config import SweepPlan
from gen_ray.sweeps.data_keys import column_of, data_part, decides_data
from gen_ray.sweeps.points import predetermined_points
from gen_ray.tabular.columns import OrderedColumn

MOST = 256
"""Largest number of data sets that a sweep prepares."""
DECIDING = {"source", "root", "options", "on_bad_row"}
"""The keys of ``data`` that decide the prepared data."""


@dataclass(frozen=True)
class TrialData:
    """A prepared folder and its cached splits, which are empty if the trial streams them."""

    folder: Path
    splits: Splits


@dataclass(frozen=True)
class SweepData:
    """The prepared data of a sweep, by the settings that decide them, in a fixed order."""

    sets: Mapping[str, Prepared]

    @classmethod
    def prepare(cls, plan: SweepPlan) -> Self:
        """Prepare the data of all trials that have not been prepared before.

        Raise UserError, and RunError if the source was changed between two preparations.
        """
        sets = dict[str, Prepared]()
        for point in _points(plan):
            experiment = plan.experiment(point)
            sets[data_key(experiment)] = prepare_data(experiment)
        _check_same_rows(list(sets.values()))
        for column in filter(None, map(column_of, plan.sweep.space)):
            _check_has_intervals(next(iter(sets.values())).spec, column)
        return cls(sets)

    @property
    def all(self) -> Sequence[Prepared]:
        """Return the data sets."""
        return list(self.sets.values())

    @property
    def first(self) -> Prepared:
        """Return a data set. The numbers and names of rows and columns are the same in all."""
        return self.all[0]

    def of(self, experiment: Experiment) -> Prepared:
        """Return the data set of a trial."""
        return self.sets[data_key(experiment)]

    def cached(self, experiment: Experiment) -> dict[str, TrialData]:
        """Return the data by ``data_key``, with the splits in the cluster's object store unless they are streamed.

        experiment: that of any trial.
        """
        return {
            key: TrialData(prepared.folder, awaited(partial(cached, experiment, prepared)))
            for key, prepared in self.sets.items()
        }


def _check_same_rows(prepared: Sequence[Prepared]) -> None:
    """Raise RunError unless several data sets are known to have the same rows: other trials would not be comparable."""
    if len(prepared) < 2:
        return
    for one in prepared:
        if not one.source_fingerprint:
            raise RunError(f"{one.folder}: was prepared by an earlier version; remove this folder and repeat the sweep")
        if one.source_fingerprint != prepared[0].source_fingerprint:
            raise RunError(f"data.source={one.source}: was changed while the sweep prepared its data; repeat the sweep")


def _check_has_intervals(spec: DataSpec, name: str) -> None:
    """Raise UserError for a searched column without intervals, because all its trials would have the same data."""
    column = next((column for column in spec.columns if column.name == name), None)
    if not isinstance(column, OrderedColumn):
        reason = "is left out of the data" if column is None else f"is a column of type {column.type}"
        raise UserError(f"space.data.options.columns.{name}.bins: must be a column with intervals; {name!r} {reason}")


def data_key(experiment: Experiment) -> str:
    """Return a text that is the same for all experiments with the same prepared data."""
    return json.dumps(experiment.data.model_dump(mode="json", include=DECIDING), sort_keys=True)


def _points(plan: SweepPlan) -> Sequence[Point]:
    """Return a point for each data set of the trials. Raise UserError for more than MOST.

    For a searcher whose points depend on results these are all combinations of the keys that decide the data.
    """
    if not any(map(decides_data, plan.sweep.space)):
        return plan.corners()[:1]
    found = dict[str, Point]()
    for point in predetermined_points(plan) or plan.data_points():
        found.setdefault(json.dumps(data_part(point)), point)
        if len(found) > MOST:
            raise UserError(f"space: more than {MOST} combinations of intervals, each of which needs its own data")
    return list(found.values())
