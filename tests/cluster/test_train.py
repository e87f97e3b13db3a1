"""Training from data to MLflow on Ray: the weights equal those of a training without Ray."""

import json
import os
import pickle
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gen_ray import run_directory
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.evaluation.copy_check import measure_copies
from gen_ray.cluster.evaluation.evaluate import SUMMARY_IMAGES, make_summary_figure
from gen_ray.cluster.training.train import TrainOutcome, train
from gen_ray.cluster.training.trainer import user_error
from gen_ray.cluster.training.worker import error_report, is_group_failure
from gen_ray.datasets.prepared import DataError
from gen_ray.datasets.random_rows import read_random_rows
from gen_ray.engine.evaluation.copy_gate import copying_reason, has_copy_figures
from gen_ray.engine.inference import artifact
from gen_ray.engine.plots import grids
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.storage import manifest
from gen_ray.tracking.runs import RunRow, connect, experiment_id, rows
from gen_ray.tracking.store import Store
from tests.cluster.tiny_runs import in_this_process, same, sharded, through_ray, tiny, weights

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def experiment(storage: Path) -> Experiment:
    return tiny(storage, training={"epochs": 2}, tracking={"experiment": "street"})


@pytest.fixture(scope="module")
def watched() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def outcome(cluster: None, experiment: Experiment, watched: list[tuple[int, int]]) -> TrainOutcome:
    return train(experiment, watch=lambda done, total, newest: watched.append((done, total)))


@pytest.fixture(scope="module")
def tracked(experiment: Experiment, outcome: TrainOutcome) -> RunRow:
    [row] = [row for row in rows(Store.of_experiment(experiment)) if row.run_id == outcome.run_id]
    return row


def test_the_artifact_loads_with_the_weights_of_the_last_checkpoint(
    experiment: Experiment, outcome: TrainOutcome
) -> None:
    model = artifact.load(outcome.artifact)
    assert model.experiment == experiment and model.meta["run_id"] == outcome.run_id
    assert model.meta["metrics"] == dict(outcome.metrics) and model.meta["steps"] == 2 * 1462 // 128
    checkpoint = outcome.artifact.parent / "checkpoints" / f"step-{2 * 1462 // 128:09d}"
    assert same(weights(checkpoint), weights(outcome.artifact))
    assert not any(p.suffix in (".pkl", ".pt", ".bin") for p in outcome.artifact.iterdir())


def test_copies_are_measured_where_the_data_are(experiment: Experiment, outcome: TrainOutcome) -> None:
    found = measure_copies(experiment, prepare_data(experiment), outcome.artifact)
    assert has_copy_figures(found) and copying_reason({**outcome.metrics, **found}) == ""
    share, error = (found[f"eval/nearest_train_share{suffix}"] for suffix in ("", "_standard_error"))
    assert abs(share - 0.5) < 3 * error  # few rows are near to most samples of a VAE after two epochs
    assert abs(found["eval/bits_gap"]) < 0.5


def test_the_run_folder_holds_the_config_two_checkpoints_and_the_artifact(
    experiment: Experiment, outcome: TrainOutcome
) -> None:
    home = outcome.artifact.parent
    assert home == experiment.storage.root / "runs" / outcome.run_id
    assert run_directory.load(home) == experiment
    folders = sorted(p.name for p in home.iterdir() if p.is_dir())
    assert folders == ["artifact", "averages", "checkpoints"]
    checkpoints = sorted((home / "checkpoints").iterdir())
    assert [folder.name for folder in checkpoints[-2:]] == ["step-000000021", "step-000000022"]
    assert len(checkpoints) <= 3
    for folder in (home / "artifact", *checkpoints, *(home / "averages").iterdir()):
        manifest.verify(folder)


def test_mlflow_has_every_setting_the_metrics_and_their_provenance(
    experiment: Experiment, outcome: TrainOutcome, tracked: RunRow
) -> None:
    assert (tracked.status, tracked.name) == ("FINISHED", "tiny")
    assert {key: str(value) for key, value in experiment.flat().items()}.items() <= tracked.params.items()
    assert tracked.params["family.name"] == "vae" and len(tracked.params["data.fingerprint"]) == 12
    expected = {
        "train/loss_nats", "train/images_per_second", "train/learning_rate", "train/minutes", "train/steps",
        "validation/loss_nats", "best/validation_loss_nats", "eval/bits_per_dim", "eval/bits_per_dim_standard_error",
        "eval/frechet_distance_at_floor_rows", "eval/frechet_distance", "eval/frechet_floor",
        "eval/precision", "eval/recall", "sample/seconds_per_image",
    }  # fmt: skip
    assert expected <= tracked.metrics.keys()
    assert {key: tracked.metrics[key] for key in outcome.metrics} == pytest.approx(dict(outcome.metrics))
    assert tracked.tags["provenance.eval/bits_per_dim.kind"] == "iwae-2"
    how = outcome.provenance["eval/frechet_distance"]
    assert tracked.tags["provenance.eval/frechet_distance.extractor"] == how["extractor"]
    extractors = experiment.storage.root / "extractors" / tracked.params["data.fingerprint"]
    assert manifest.digest(extractors / "weights.safetensors").startswith(how["extractor"].removeprefix("classifier-"))


def test_mlflow_has_pictures_of_progress_and_the_model(experiment: Experiment, outcome: TrainOutcome) -> None:
    client = connect(Store.of_experiment(experiment))
    [run] = client.search_runs(
        [experiment_id(Store.of_experiment(experiment), client)], f"tags.`gen_ray.run_id` = '{outcome.run_id}'"
    )
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert any("samples" in path and "22" in path for path in images)
    model = Path(client.download_artifacts(run.info.run_id, "model"))
    assert same(weights(model), weights(outcome.artifact))
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss_nats")]
    assert steps == [5, 10, 15, 20, 22]


def test_the_summary_figure_shows_the_artifact_and_chosen_test_images(
    experiment: Experiment, outcome: TrainOutcome
) -> None:
    prepared = prepare_data(experiment)
    picture = make_summary_figure(experiment, prepared, outcome.artifact)
    shown = grids.grid(torch.from_numpy(read_random_rows(prepared, "test", SUMMARY_IMAGES)[0]), levels=17, columns=1)
    assert (picture[-len(shown) :, : shown.shape[1]] == shown).all()


def test_progress_is_reported_during_training(outcome: TrainOutcome, watched: list[tuple[int, int]]) -> None:
    done = [step for step, _ in watched]
    assert done == sorted(done) and done[-1] == 22 and {total for step, total in watched if step} == {22}


def test_one_worker_equals_a_plain_process_to_the_bit(experiment: Experiment, outcome: TrainOutcome) -> None:
    local, _ = in_this_process(experiment, prepare_data(experiment))
    assert same(local, weights(outcome.artifact))


@pytest.mark.parametrize("family", ["ddpm"])
def test_two_workers_equal_one_with_the_joined_batch(storage: Path, family: str) -> None:
    net = {"name": "mlp", "width": 16, "depth": 1}
    sections = {"family": {"name": family, "steps": 20, "net": net}, "data": {"batch_size": 64}}
    two = tiny(storage, **sections, scaling={"num_workers": 2})
    one = tiny(storage, **sections, training={"gradient_accumulation_steps": 2})
    prepared = prepare_data(one)
    joined, session = in_this_process(one, prepared)
    parted, logged = through_ray(two, prepared, "two-workers")
    widest = max(float((joined[name] - parted[name]).abs().max()) for name in joined)
    moved = max(float((joined[name] - fresh).abs().max()) for name, fresh in _untrained(one, prepared).items())
    print(f"two workers against one: {widest:.2e} apart after a move of {moved:.2e}")
    assert widest <= 1e-6 < 1e-3 < moved
    for key in ("train/loss_nats", "validation/loss_nats"):
        first = {step: metrics[key] for step, metrics in session.history if key in metrics}
        assert {step: metrics[key] for step, metrics in logged if key in metrics} == pytest.approx(first, rel=1e-5)


def _untrained(experiment: Experiment, prepared: Any) -> Mapping[str, torch.Tensor]:
    torch.manual_seed(experiment.training.seed)
    return experiment.model(prepared.spec).build_net().state_dict()


def _killed_once(task: Mapping[str, Any]) -> Any:
    """Train, but exit without a message at the seventh step of the first attempt."""
    from gen_ray.cluster.training.worker import train_worker
    from gen_ray.engine.training.step import TrainState

    step = TrainState.step

    def fatal(self: TrainState, micros: list[torch.Tensor], at: int, *how: Any) -> Any:
        if at == 6 and not Path(task["flag"]).exists():
            Path(task["flag"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, micros, at, *how)

    TrainState.step = fatal  # type: ignore[method-assign]
    try:
        return train_worker(task)
    finally:
        TrainState.step = step  # type: ignore[method-assign]


@pytest.mark.soak
def test_a_killed_worker_on_streamed_data_restarts_to_the_same_weights(storage: Path, tmp_path: Path) -> None:
    """The worker has all CPUs of the machine: reading its data must not wait for free ones."""
    once = tiny(storage, data={"cache": "stream"}, scaling={"max_failures": 1, "cpus_per_worker": 4})
    prepared = sharded(storage)
    assert len(prepared.shards("train")) > 8  # more than one window of shards
    resumed, logged = through_ray(once, prepared, "killed-once", _by_value(_killed_once), flag=str(tmp_path / "died"))
    undisturbed, session = in_this_process(once, prepared, streamed=True)
    assert (tmp_path / "died").exists() and same(resumed, undisturbed)
    assert logged[-1][0] == session.history[-1][0] == 1462 // 128


def test_an_interrupted_run_resumes_to_the_same_weights_with_the_same_settings_only(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny(storage, tracking={"experiment": "resumed"}).model_copy(update={"name": "broken"})
    with pytest.raises(UserError, match="no unfinished run named 'broken'"):
        train(whole, resume=True)
    monkeypatch.setattr("gen_ray.cluster.training.trainer.train_worker", _by_value(_broken))
    with pytest.raises(RunError, match="the seventh step"):
        train(whole)
    monkeypatch.undo()
    [row] = rows(Store.of_experiment(whole))
    assert (row.status, row.tags["error"]) == ("FAILED", "training stopped: the seventh step")
    home = whole.storage.root / "runs" / row.run_id
    assert (home / "checkpoints" / "step-000000006").is_dir() and not (home / "artifact").exists()
    other = whole.model_copy(update={"training": whole.training.model_copy(update={"seed": 4})})
    with pytest.raises(UserError, match=r"`resume`: training\.seed was 3 in broken-.*, now it is 4"):
        train(other, resume=True)
    done = train(whole, resume=True)
    assert done.run_id == row.run_id and same(weights(done.artifact), in_this_process(whole, prepare_data(whole))[0])
    [row] = rows(Store.of_experiment(whole))  # still one run
    assert row.status == "FINISHED" and row.metrics["train/steps"] == 11
    with pytest.raises(UserError, match="no unfinished run"):
        train(whole, resume=True)


def _broken(task: Mapping[str, Any]) -> Any:
    from gen_ray.cluster.training.worker import train_worker
    from gen_ray.engine.training.step import TrainState

    step = TrainState.step

    def fatal(self: TrainState, micros: list[torch.Tensor], at: int, *how: Any) -> Any:
        if at == 6:
            raise ValueError("the seventh step")
        return step(self, micros, at, *how)

    TrainState.step = fatal  # type: ignore[method-assign]
    try:
        return train_worker(task)
    finally:
        TrainState.step = step  # type: ignore[method-assign]


def _by_value(loop: Any) -> Any:
    """Let Ray send a function of this module by value, because workers cannot import tests."""
    import sys

    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return loop


def test_the_message_for_the_user_is_found_in_nested_errors_of_ray() -> None:
    import ray

    class WrappedError(Exception):
        def __init__(self, message: str, **failures: Exception) -> None:
            super().__init__(message)
            self.worker_failures = failures

    meant = DataError(Path("/d/train-00000.parquet"), "damaged")
    task = ray.exceptions.RayTaskError("f", "Traceback (most recent call last):\n…", meant)
    assert str(pickle.loads(pickle.dumps(meant))) == str(meant)
    for inner in (meant, task, task.as_instanceof_cause()):
        found = user_error(WrappedError("training failed", rank_1=inner))
        assert found is meant and isinstance(found, UserError)
    unknown = user_error(WrappedError("first line\nlast line"))
    assert isinstance(unknown, RunError) and str(unknown) == "training stopped: last line"


def test_the_resolved_config_of_the_artifact_is_plain_yaml(outcome: TrainOutcome) -> None:
    raw = yaml.safe_load((outcome.artifact / "config.yaml").read_text())
    assert raw["family"]["net"]["hidden"] == [16]
    assert json.loads((outcome.artifact / "meta.json").read_text())["versions"]["ray"]


def test_a_run_that_mlflow_refuses_is_not_trained(storage: Path) -> None:
    """Regression: such a run was trained to its end and recorded nowhere."""
    refused = tiny(storage, name="refused", tracking={"experiment": "deleted"})
    client = connect(Store.of_experiment(refused))
    client.delete_experiment(experiment_id(Store.of_experiment(refused), client))
    steps = list[int]()
    with pytest.raises(RunError, match="experiment 'deleted'"):
        train(refused, watch=lambda done, total, newest: steps.append(done))
    assert not steps and run_directory.named("refused", storage / "runs") == []
    wrong = refused.model_copy(update={"tracking": refused.tracking.model_copy(update={"uri": "localhost:5000"})})
    with pytest.raises(UserError, match="did you mean http://localhost:5000"):
        train(wrong)
    assert run_directory.named("refused", storage / "runs") == []


def test_the_end_of_a_process_group_is_not_an_error_of_the_code() -> None:
    """Ray Train destroys the process group of a rank while the rank's thread may still use it."""
    import torch.distributed as dist

    with pytest.raises(ValueError, match="process group") as error:
        dist.all_reduce(torch.zeros(1))
    assert is_group_failure(error.value) and is_group_failure(RuntimeError("Connection closed by peer"))
    full = error_report(RuntimeError("CUDA error: out of memory\nCompile with"), {"data": {"batch_size": 8}})
    assert "data.batch_size=8" in full["message"]
    assert not is_group_failure(ValueError("x")) and not is_group_failure(KeyError("process group"))
