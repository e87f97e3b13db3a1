"""The data sets that a sweep prepares before its first trial, without Ray."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen_ray.cluster.sweeps import data as module
from gen_ray.cluster.sweeps.data import MOST, SweepData, data_key
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.sweeps.config import SweepPlan, load
from gen_ray.sweeps.points import predetermined_points
from tests.sweeps.test_config import written

TABLE = {"name": "base", "family": "discrete", "data": {"source": "iris"}}
BINS = {"data.options.bins": {"choice": [8, 16, 32]}}
SEEDS = {"training.seed": {"choice": [0, 1, 2]}, "data.batch_size": {"choice": [32, 64]}}


class Intervals(int):
    """A number of intervals in place of the data that have them."""

    source_fingerprint = "rows"


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the intervals of the data that were prepared, which are replaced by their number."""
    found = list[int]()

    def prepare(experiment: Experiment) -> Any:
        found.append(Intervals(experiment.data.options.bins))
        return found[-1]

    monkeypatch.setattr(module, "prepare_data", prepare)
    return found


def plan(folder: Path, **keys: Any) -> SweepPlan:
    return load(written(folder, TABLE, **{"metric": "eval/bits_beyond_marginals", "space": {**SEEDS, **BINS}, **keys}))


def test_each_data_set_of_a_grid_is_prepared_once_and_trials_get_their_own(tmp_path: Path, prepared: list[int]) -> None:
    found = plan(tmp_path)
    data = SweepData.prepare(found)
    assert prepared == [8, 16, 32] == list(data.all) and data.first == 8
    for point in found.grid():
        assert data.of(found.experiment(point)) == point["data.options.bins"]


def test_only_the_data_of_known_points_are_prepared_else_those_of_all_combinations(
    tmp_path: Path, prepared: list[int]
) -> None:
    random = plan(tmp_path, searcher={"name": "random"}, trials=2)
    points = predetermined_points(random)
    assert points is not None
    SweepData.prepare(random)
    assert prepared == list(dict.fromkeys(point["data.options.bins"] for point in points))
    prepared.clear()
    SweepData.prepare(plan(tmp_path, searcher={"name": "tpe"}, trials=2))
    assert prepared == [8, 16, 32]


def test_a_sweep_without_intervals_prepares_one_data_set(tmp_path: Path, prepared: list[int]) -> None:
    data = SweepData.prepare(plan(tmp_path, space=SEEDS))
    assert prepared == [128] == list(data.all)


def test_the_settings_of_batches_do_not_need_other_data(tmp_path: Path) -> None:
    found = plan(tmp_path)
    keys = {data_key(found.experiment(point)) for point in found.grid()}
    assert len(keys) == 3


def test_a_sweep_does_not_prepare_very_many_data_sets(tmp_path: Path, prepared: list[int]) -> None:
    space = {"data.options.bins": {"choice": list(range(2, MOST + 3))}}
    with pytest.raises(UserError, match="space: more than 256 combinations of intervals"):
        SweepData.prepare(plan(tmp_path, space=space))
    assert prepared == []


def write_rows(folder: Path, seed: int) -> None:
    numbers = np.random.default_rng(seed).normal(size=(200 + seed, 2))
    np.savetxt(folder / "rows.csv", numbers, delimiter=",", header="a,b", comments="")


def file_plan(folder: Path, options: Mapping[str, Any] = {}, space: Mapping[str, Any] = BINS) -> SweepPlan:
    data = {"source": "csv:rows.csv", "root": str(folder), "options": options}
    base = {**TABLE, "data": data, "storage": {"root": str(folder / "runs")}}
    return load(written(folder, base, metric="eval/bits_beyond_marginals", space=space))


def test_a_source_that_changes_between_two_preparations_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path, 0)
    real, found = module.prepare_data, list[Any]()

    def prepare(experiment: Experiment) -> Any:
        found.append(real(experiment))
        if len(found) == 2:
            write_rows(tmp_path, 1)
        return found[-1]

    with monkeypatch.context() as changed:
        changed.setattr(module, "prepare_data", prepare)
        with pytest.raises(RunError, match=r"csv:rows.csv: was changed while the sweep prepared its data; repeat"):
            SweepData.prepare(file_plan(tmp_path))
    data = SweepData.prepare(file_plan(tmp_path))
    assert {sum(one.rows.values()) for one in data.all} == {201}
    monkeypatch.setattr(module, "prepare_data", lambda experiment: replace(found[0], source_fingerprint=""))
    with pytest.raises(RunError, match=f"{found[0].folder}: was prepared by an earlier version; remove this folder"):
        SweepData.prepare(file_plan(tmp_path))


@pytest.mark.parametrize(
    ("options", "column", "fault"),
    [
        (
            {"columns": {"a": {"type": "category"}}},
            "a",
            "must be a column with intervals; 'a' is a column of type category",
        ),
        ({"columns": {"a": {"keep": False}}}, "a", "must be a column with intervals; 'a' is left out of the data"),
        ({}, "c", "data.options.columns.c: unknown column, known: a, b"),
    ],
)
def test_the_intervals_of_a_column_without_any_are_not_searched(
    tmp_path: Path, options: dict[str, Any], column: str, fault: str
) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{i % 7},{i / 9}\n" for i in range(300)))
    space = {f"data.options.columns.{column}.bins": {"choice": [4, 16]}}
    with pytest.raises(UserError, match=fault):
        SweepData.prepare(file_plan(tmp_path, options, space))
    assert (
        len(SweepData.prepare(file_plan(tmp_path, {}, {"data.options.columns.b.bins": {"choice": [4, 16]}})).all) == 2
    )
