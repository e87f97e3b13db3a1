"""A sweep through Ray Tune and its records in MLflow."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gen_ray import run_directory
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.sweeps.report import SweepOutcome
from gen_ray.cluster.sweeps.searcher import SWEEP
from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.errors import EndedError, UserError
from gen_ray.sweeps.config import SweepPlan, load
from gen_ray.tracking.runs import PARENT, RunRow, connect, latest_image, rows
from gen_ray.tracking.store import Store
from tests.cluster.tiny_runs import TINY, in_this_process, same, weights

UNLUCKY = 5
"""A latent dimension with which no training succeeds here."""


def with_bad_luck() -> Callable[..., None]:
    """Return trial with injected failures; a local function, which Ray sends by value."""

    def unlucky(config: dict[str, Any], *, task: Any) -> None:
        from gen_ray.cluster.sweeps import trial as module

        real = module.fit

        def fit(experiment: Any, *rest: Any, **how: Any) -> Any:
            if experiment.family.latent_dim == UNLUCKY:
                raise ZeroDivisionError("bad luck")
            return real(experiment, *rest, **how)

        module.fit = fit
        try:
            module.trial(config, task=task)
        finally:
            module.fit = real

    return unlucky


def plan(folder: Path, storage: Path, experiment: str, **keys: Any) -> SweepPlan:
    base = {**TINY, "storage": {"root": str(storage)}, "tracking": {"experiment": experiment}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    raw = {"name": experiment, "experiment": "base.yaml", "searcher": {"name": "grid"}, **keys}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return load(folder / "sweep.yaml")


def story(found: SweepPlan) -> tuple[RunRow, list[RunRow]]:
    """Return the MLflow rows of the parent and of the trials in order of number."""
    all_rows = rows(Store.of_experiment(found.experiment(next(iter(found.corners())))))
    [parent] = [row for row in all_rows if row.tags.get("gen_ray.kind") == "sweep"]
    return parent, sorted((row for row in all_rows if row is not parent), key=lambda row: row.run_id)


@pytest.fixture(scope="module")
def three(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepPlan:
    """Return the plan of a sweep in which one trial fails."""
    space = {"family.latent_dim": {"choice": [2, UNLUCKY, 3]}}
    return plan(
        tmp_path_factory.mktemp("three"), storage, "three-dims", space=space, settings={"training": {"epochs": 2}}
    )


@pytest.fixture(scope="module")
def outcome(cluster: None, three: SweepPlan) -> SweepOutcome:
    """Return the outcome of the sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gen_ray.cluster.sweeps.sweep.trial", with_bad_luck())
        return sweep(three)


@pytest.mark.usefixtures("cluster")
def test_a_failed_trial_is_reported_and_stops_no_other(outcome: SweepOutcome, three: SweepPlan) -> None:
    assert [result.state for result in outcome.results] == ["finished", "failed", "finished"]
    assert outcome.results[1].error == "ZeroDivisionError: bad luck"
    assert outcome.best in {f"{outcome.sweep_id}.{number:03d}" for number in (0, 2)}
    home = three.experiment({}).storage.root / "sweeps" / outcome.sweep_id
    assert len((home / "table.csv").read_text().splitlines()) == 4


@pytest.mark.usefixtures("cluster")
def test_mlflow_has_one_parent_and_an_accurate_child_for_each_trial(outcome: SweepOutcome, three: SweepPlan) -> None:
    parent, trials = story(three)
    assert parent.status == "FINISHED" and parent.tags["best_run"] == outcome.best
    assert parent.params["space.family.latent_dim"] == "{choice: [2, 5, 3]}"
    assert parent.metrics["trials/finished"] == 2 and parent.metrics["trials/failed"] == 1
    assert [row.status for row in trials] == ["FINISHED", "FAILED", "FINISHED"]
    assert {row.tags[PARENT] for row in trials} == {parent.mlflow_id} and {row.tags[SWEEP] for row in trials} == {
        outcome.sweep_id
    }
    assert [row.tags["gen_ray.trial"] for row in trials] == ["000", "001", "002"]
    assert trials[0].name == "000 latent_dim=2" and trials[2].params["family.latent_dim"] == "3"
    assert trials[1].tags["reason"] == "ZeroDivisionError" and "bad luck" in trials[1].tags["error"]
    found = {result.number: result.metrics for result in outcome.results}
    for number in (0, 2):
        assert trials[number].metrics["eval/bits_per_dim"] == pytest.approx(found[number]["eval/bits_per_dim"])
        assert "provenance.eval/bits_per_dim.kind" in trials[number].tags
    best = min((0, 2), key=lambda number: found[number]["eval/bits_per_dim"])
    assert outcome.best == trials[best].run_id
    assert parent.metrics["best/eval_bits_per_dim"] == pytest.approx(found[best]["eval/bits_per_dim"])


@pytest.mark.usefixtures("cluster")
def test_the_parent_holds_table_record_and_pictures(outcome: SweepOutcome, three: SweepPlan) -> None:
    store = Store.of_experiment(three.experiment({}))
    client, [parent] = connect(store), [row for row in rows(store) if row.tags.get("gen_ray.kind") == "sweep"]
    files = {Path(item.path).name for item in client.list_artifacts(parent.mlflow_id, "sweep")}
    assert files == {"table.csv", "sweep.yaml", "study.jsonl"}
    for name in ("parallel_coordinates", "metric_against_each_key", "quality_against_cost", "best_samples"):
        assert latest_image(store, parent, f"sweep_{name}"), name


@pytest.mark.usefixtures("cluster")
def test_trials_in_one_process_equal_separate_trainings(outcome: SweepOutcome, three: SweepPlan) -> None:
    experiment = three.experiment({"family.latent_dim": 3})
    single, _ = in_this_process(experiment, prepare_data(experiment))
    assert same(single, weights(run_directory.folder(experiment, f"{outcome.sweep_id}.002") / "artifact"))


@pytest.mark.usefixtures("cluster")
def test_an_interrupted_sweep_resumes_and_repeats_nothing(storage: Path, tmp_path: Path) -> None:
    keys = {
        "space": {"training.seed": {"choice": [1, 2, 3]}},
        "settings": {"training": {"epochs": 1}},
        "concurrency": 1,
    }
    sweep_plan = plan(tmp_path, storage, "cut-off", **keys)
    with pytest.raises(UserError, match="no unfinished sweep named 'cut-off'"):
        sweep(sweep_plan, resume=True)

    def cut(done: int, *_: Any) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C, which Ray Tune handles

    with pytest.raises(EndedError, match="`resume`") as ended:
        sweep(sweep_plan, watch=cut)
    assert ended.value.code == 130
    parent, before = story(sweep_plan)
    assert parent.status == "KILLED" and len(before) in (1, 2)
    assert [row.status for row in before] == ["FINISHED", "KILLED"][: len(before)]
    first = run_directory.folder(sweep_plan.experiment({}), before[0].run_id) / "result.json"
    written = first.stat().st_mtime_ns

    other = plan(tmp_path, storage, "cut-off", **{**keys, "trials": 2})
    with pytest.raises(UserError, match=r"\(sweep\.trials\)"):
        sweep(other, resume=True)
    done = sweep(plan(tmp_path, storage, "cut-off", **keys), resume=True)
    assert [result.state for result in done.results] == ["finished"] * 3 and first.stat().st_mtime_ns == written
    parent, after = story(sweep_plan)
    assert parent.status == "FINISHED" and [row.status for row in after] == ["FINISHED"] * 3
    assert after[0].mlflow_id == before[0].mlflow_id and parent.run_id == done.sweep_id


@pytest.mark.usefixtures("cluster")
def test_a_hopeless_trial_is_pruned_and_marked(storage: Path, tmp_path: Path) -> None:
    rates = [1e-2, 1e-7, 1e-8]
    sweep_plan = plan(
        tmp_path, storage, "hopeless", space={"training.learning_rate": {"choice": rates}}, concurrency=1,
        settings={"training": {"epochs": 4}}, metric="validation/loss_nats",
        scheduler={"name": "asha", "grace_epochs": 1, "reduction": 2},
    )  # fmt: skip
    done = sweep(sweep_plan)
    assert [result.state for result in done.results] == ["finished", "stopped early", "stopped early"]
    _, trials = story(sweep_plan)
    assert [row.status for row in trials] == ["FINISHED"] * 3 and trials[1].tags["stopped_early"] == "after epoch 1"
    assert "eval/bits_per_dim" not in trials[1].metrics and done.best == trials[0].run_id


@pytest.mark.usefixtures("cluster")
def test_a_trial_with_two_workers_uses_ray_train(storage: Path, tmp_path: Path) -> None:
    settings = {"scaling": {"num_workers": 2}, "training": {"epochs": 1}}
    sweep_plan = plan(tmp_path, storage, "two-each", space={"family.latent_dim": {"choice": [3]}}, settings=settings)
    done = sweep(sweep_plan)
    [result] = done.results
    assert result.state == "finished" and result.metrics["train/steps"] == 11
    _, [row] = story(sweep_plan)
    assert row.status == "FINISHED" and row.params["scaling.num_workers"] == "2" and "eval/bits_per_dim" in row.metrics
