"""Population based training through Ray Tune: copied trials, their settings, and the records in MLflow."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gen_ray import run_directory
from gen_ray.cluster.sweeps.population import exploit
from gen_ray.cluster.sweeps.report import SweepOutcome, trial_run
from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.engine.training import checkpoint_store
from gen_ray.errors import EndedError
from gen_ray.experiment import Experiment
from gen_ray.sweeps.config import SweepPlan
from gen_ray.tracking.runs import connect
from gen_ray.tracking.store import Store
from tests.cluster.test_sweep import plan, story

TRIALS, EPOCHS, INTERVAL, STEPS = 4, 6, 2, 68
KEYS: dict[str, Any] = {
    "space": {
        "training.learning_rate": {"loguniform": [1e-6, 1e-2]},
        "training.weight_decay": {"choice": [0.0, 0.01, 0.1, 1.0]},
    },
    "searcher": {"name": "random", "seed": 1},
    "trials": TRIALS,
    "concurrency": 2,  # fewer than the trials, so that some wait
    "settings": {"training": {"epochs": EPOCHS, "checkpoint_every_seconds": 60}},
    "metric": "validation/loss_nats",
    "scheduler": {"name": "pbt", "interval_epochs": INTERVAL},
}
Carry = Callable[[Experiment, str, str], None]


def newest(experiment: Experiment, run_id: str) -> dict[str, bytes]:
    """Return the newest checkpoint of a run, file by file."""
    found = checkpoint_store.checkpoints(run_directory.folder(experiment, run_id)).last()
    assert found is not None
    return {file.name: file.read_bytes() for file in found.iterdir()}


@pytest.fixture(scope="module")
def four(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepPlan:
    """Return a plan of a population in which one additional trial fails."""
    return plan(tmp_path_factory.mktemp("four"), storage, "four", **{**KEYS, "trials": TRIALS + 1})


def with_bad_luck() -> Callable[..., None]:
    """Return trial with one that fails before its second span; a local function, which Ray sends by value."""

    def unlucky(config: dict[str, Any], *, task: Any) -> None:
        from gen_ray.cluster.sweeps import trial as module

        if config["run_id"].endswith(".004") and config["until"] == 2 * INTERVAL:
            module.tune.report({"error": "bad luck", "reason": "luck"})
        else:
            module.trial(config, task=task)

    return unlucky


@pytest.fixture(scope="module")
def copied(cluster: None, four: SweepPlan) -> Iterator[tuple[SweepOutcome, list[tuple[str, str]]]]:
    """Return the outcome of a population and the copies (run, donor), after checking the copied files."""
    copies: list[tuple[str, str]] = []

    def carry(experiment: Experiment, run_id: str, donor: str) -> None:
        before = newest(experiment, run_id)
        exploit(experiment, run_id, donor)
        assert before != newest(experiment, run_id) == newest(experiment, donor)
        copies.append((run_id, donor))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gen_ray.cluster.sweeps.searcher.exploit", carry)
        patch.setattr("gen_ray.cluster.sweeps.sweep.trial", with_bad_luck())
        yield sweep(four), copies


def test_the_worst_trials_continue_as_copies_with_new_settings(
    copied: tuple[SweepOutcome, list[tuple[str, str]]], four: SweepPlan
) -> None:
    outcome, copies = copied
    assert [result.state for result in outcome.results] == [*["finished"] * TRIALS, "failed"]
    expected_copies = [(result.number, copy.donor) for result in outcome.results for copy in result.copies]
    assert copies and sorted(copies) == sorted(
        tuple(trial_run(outcome.sweep_id, one) for one in pair) for pair in expected_copies
    )
    for result in outcome.results[:TRIALS]:
        assert all(copy.epoch % INTERVAL == 0 and copy.epoch < EPOCHS for copy in result.copies)
        experiment = run_directory.load(run_directory.folder(four.first, trial_run(outcome.sweep_id, result.number)))
        assert experiment.training == four.experiment(result.point).training, "the settings at its end"
        last = checkpoint_store.checkpoint_of(
            run_directory.folder(experiment, trial_run(outcome.sweep_id, result.number)), "last"
        )
        [group] = torch.load(last / "optimizer.pt", weights_only=True)["param_groups"]
        assert group["lr"] == experiment.training.learning_rate
        assert group["weight_decay"] == experiment.training.weight_decay
        assert result.metrics["train/steps"] == STEPS


def test_mlflow_has_one_run_per_trial_with_its_actual_history(
    copied: tuple[SweepOutcome, list[tuple[str, str]]], four: SweepPlan
) -> None:
    outcome, _ = copied
    parent, trials = story(four)
    assert parent.status == "FINISHED" and [row.status for row in trials] == [*["FINISHED"] * TRIALS, "FAILED"]
    client = connect(Store.of_experiment(four.first))
    for row, result in list(zip(trials, outcome.results, strict=True))[:TRIALS]:
        assert "stopped_early" not in row.tags
        assert ("exploited" in row.tags) == bool(result.copies)
        if result.copies:
            assert row.tags["exploited"] == ", ".join(map(str, result.copies))
            assert float(row.tags["final.training.learning_rate"]) == result.point["training.learning_rate"]
        for metric in ("train/loss_nats", "train/learning_rate", "validation/loss_nats"):
            steps = [point.step for point in client.get_metric_history(row.mlflow_id, metric)]
            assert steps == sorted(set(steps)) and steps[-1] == STEPS, metric


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_a_population_resumes_with_the_settings_at_the_death_of_its_driver(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_plan = plan(tmp_path, storage, "orphaned", **{**KEYS, "concurrency": 4})

    def interrupted(carry: Carry) -> None:
        monkeypatch.setattr("gen_ray.cluster.sweeps.searcher.exploit", carry)

    def none_at_all(*_: Any) -> None:
        raise OSError("the driver dies between record and copy")

    def then_ctrl_c(experiment: Experiment, run_id: str, donor: str) -> None:
        exploit(experiment, run_id, donor)
        assert newest(experiment, run_id) == newest(experiment, donor)
        copies.append(run_id)
        if len(copies) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    copies: list[str] = []
    interrupted(none_at_all)
    with pytest.raises(OSError, match="between record and copy"):
        sweep(sweep_plan)
    interrupted(then_ctrl_c)
    with pytest.raises(EndedError, match="`resume`"):
        sweep(sweep_plan, resume=True)
    interrupted(exploit)
    done = sweep(sweep_plan, resume=True)
    assert [result.state for result in done.results] == ["finished"] * TRIALS
    assert copies[0] in {trial_run(done.sweep_id, result.number) for result in done.results if result.copies}
    for result in done.results:
        experiment = run_directory.load(run_directory.folder(sweep_plan.first, trial_run(done.sweep_id, result.number)))
        assert experiment.training == sweep_plan.experiment(result.point).training
        assert result.metrics["train/steps"] == STEPS
    parent, trials = story(sweep_plan)
    assert parent.status == "FINISHED" and [row.status for row in trials] == ["FINISHED"] * TRIALS


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_trials_with_two_workers_also_wait_for_one_another(storage: Path, tmp_path: Path) -> None:
    settings = {"scaling": {"num_workers": 2}, "training": {"epochs": 2}}
    sweep_plan = plan(
        tmp_path, storage, "two-by-two",
        **{**KEYS, "trials": 2, "settings": settings, "scheduler": {"name": "pbt", "interval_epochs": 1}},
    )  # fmt: skip
    done = sweep(sweep_plan)
    assert [result.state for result in done.results] == ["finished"] * 2
    assert [str(copy) for result in done.results for copy in result.copies] in (["000 at epoch 1"], ["001 at epoch 1"])
    assert {result.metrics["train/steps"] for result in done.results} == {22}
