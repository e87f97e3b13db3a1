"""The model registry: a champion is replaced only by a better run with metrics of the same provenance."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gen_ray.errors import RunError, UserError
from gen_ray.metrics import BITS_PER_DIM
from gen_ray.storage import manifest
from gen_ray.tracking import registry, releases, versions
from gen_ray.tracking.registry import champion, promote_run, promotion_metric
from gen_ray.tracking.runs import TrackedRun, connect, row, set_tags
from gen_ray.tracking.store import Store

BITS = BITS_PER_DIM.name
DATA = {"provenance.eval/bits_per_dim.data": "aaa", "provenance.eval/bits_per_dim.kind": "vlb"}
FRECHET = {"provenance.eval/frechet_distance.data": "aaa", "provenance.eval/frechet_distance.samples": "64"}


@pytest.fixture
def store(storage: Path) -> Store:
    """Return the database of the session, because creating one takes seconds."""
    return Store.of(None, "registry", storage)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """Return the name of a model of this test only."""
    return request.node.name[:60].rstrip("]").replace("[", "-")


def ran(store: Store, model: str, number: int, bits: float, tags: Any = DATA, **metrics: float) -> str:
    """Return a finished run with its artifact."""
    run_id = f"{model}-{number}"
    run = TrackedRun(store, run_id, name=run_id, params={}, tags=tags)
    run.log(
        {
            BITS: bits,
            f"{BITS}_standard_error": 0.02,
            **{f"eval/{k}": v for k, v in metrics.items()},
        },
        1,
    )
    weights = Path(store.uri.removeprefix("sqlite:///")).parent / "weights.safetensors"
    weights.write_bytes(run_id.encode())
    run.log_artifact(weights, "model")
    run.close("FINISHED")
    return run_id


def test_the_first_run_is_champion_until_a_better_one_replaces_it(store: Store, model: str) -> None:
    assert champion(store, model) is None
    first, second = ran(store, model, 1, 1.84), ran(store, model, 2, 1.81)
    verdict = promote_run(store, model, first, BITS)
    assert verdict.promoted
    assert verdict.line == f"champion of {model}: version 1 (run {first}), eval/bits_per_dim 1.84 ± 0.02, the first"
    verdict = promote_run(store, model, second, BITS, margin=0.02)
    assert verdict.promoted and verdict.line.endswith(
        f"version 2 (run {second}), eval/bits_per_dim 1.81 ± 0.02, was 1.84 ± 0.02 of version 1"
    )
    found = champion(store, model)
    assert found is not None and (found.version, found.run_id, found.value) == ("2", second, 1.81)
    client = connect(store)
    version = client.get_model_version_by_alias(model, "champion")
    assert version.run_id == row(store, second).mlflow_id and version.tags["gen_ray.metric"] == BITS
    uri = client.get_model_version_download_uri(model, version.version)
    assert Path(client.download_artifacts(version.run_id, "model/weights.safetensors")).read_text() == second
    assert uri.endswith("/model")


@pytest.mark.parametrize(("bits", "margin"), [(1.83, 0.02), (1.84, 0.0), (1.9, 0.0), (float("nan"), 0.0)])
def test_a_run_that_does_not_win_by_the_margin_changes_nothing(
    store: Store, model: str, bits: float, margin: float
) -> None:
    first, second = ran(store, model, 1, 1.84), ran(store, model, 2, bits)
    promote_run(store, model, first, BITS)
    verdict = promote_run(store, model, second, BITS, margin=margin)
    assert not verdict.promoted and verdict.line.startswith(f"champion of {model} stays version 1 (run {first}): ")
    if bits == 1.83:
        assert verdict.line.endswith(f"{BITS} 1.83 ± 0.02 of run {second} does not beat 1.84 ± 0.02 by 0.02")
    found = champion(store, model)
    assert found is not None and found.run_id == first
    assert len(connect(store).search_model_versions(f"name='{model}'")) == 1


def test_metrics_of_another_provenance_are_not_compared(store: Store, model: str) -> None:
    promote_run(store, model, ran(store, model, 1, 1.84), BITS)
    other = ran(store, model, 2, 0.5, tags={**DATA, "provenance.eval/bits_per_dim.data": "bbb"})
    verdict = promote_run(store, model, other, BITS)
    assert not verdict.promoted and "is not comparable with it, its data is bbb, the champion's aaa" in verdict.line
    kind = ran(store, model, 3, 0.5, tags={**DATA, "provenance.eval/bits_per_dim.kind": "iwae-100", **FRECHET})
    assert promote_run(store, model, kind, BITS).promoted  # bounds on the same quantity
    by_distance = ran(store, model, 4, 0.1, tags={**DATA, **FRECHET}, frechet_distance=1.0)
    verdict = promote_run(store, model, by_distance, "eval/frechet_distance")
    assert not verdict.promoted and "eval/frechet_distance with eval/bits_per_dim" in verdict.line


def test_for_some_metrics_a_larger_value_is_better(store: Store, model: str) -> None:
    for number, recall, promoted in ((1, 0.5, True), (2, 0.4, False), (3, 0.6, True)):
        run_id = ran(store, model, number, 1.0, tags=FRECHET, recall=recall)
        assert promote_run(store, model, run_id, "eval/recall").promoted is promoted
    run_id = ran(store, model, 4, 1.0, tags={**FRECHET, "provenance.eval/frechet_distance.samples": "9"}, recall=0.9)
    assert "its samples is 9" in promote_run(store, model, run_id, "eval/recall").line


def test_a_metric_that_is_not_finite_never_wins(store: Store, model: str) -> None:
    verdict = promote_run(store, model, ran(store, model, 1, float("nan")), BITS)
    assert not verdict.promoted and verdict.line.startswith(f"{model} gets no champion: ")
    assert champion(store, model) is None


def test_a_missing_run_or_metric_is_reported(store: Store, model: str) -> None:
    with pytest.raises(RunError, match="has no run unknown"):
        promote_run(store, model, "unknown", BITS)
    words = rf"does not have eval/recall; choose another with argument `metric` \(measured: {BITS}\)"
    with pytest.raises(RunError, match=words):
        promote_run(store, model, ran(store, model, 1, 1.0), "eval/recall")


def test_a_champion_of_another_tool_is_not_compared(store: Store, model: str) -> None:
    client, run_id = connect(store), ran(store, model, 1, 1.0)
    client.create_registered_model(model)
    mlflow_id = row(store, run_id).mlflow_id
    made = client.create_model_version(model, f"runs:/{mlflow_id}/model", run_id=mlflow_id)
    client.set_registered_model_alias(model, versions.CHAMPION, made.version)
    with pytest.raises(RunError, match=f"version 1 of {model} lacks the tag"):
        promote_run(store, model, run_id, BITS)


def test_a_sweep_is_compared_by_its_own_metric_if_all_runs_have_it() -> None:
    assert promotion_metric("eval/frechet_distance") == "eval/frechet_distance"
    assert promotion_metric("validation/loss_nats") == promotion_metric("sample/seconds_per_image") == BITS


def test_a_run_that_has_ended_can_be_tagged(store: Store, model: str) -> None:
    run_id = ran(store, model, 1, 1.0)
    set_tags(store, run_id, {"promotion": "champion"})
    found = row(store, run_id)
    assert found.tags["promotion"] == "champion" and found.status == "FINISHED"


def test_the_former_champion_is_kept_as_previous_and_can_be_restored(store: Store, model: str) -> None:
    runs = [ran(store, model, number, bits) for number, bits in ((1, 1.9), (2, 1.8))]
    promote_run(store, model, runs[0], BITS)
    with pytest.raises(RunError, match=f"{model}: does not have a previous champion"):
        registry.rollback(store, model)
    promote_run(store, model, runs[1], BITS)
    client = connect(store)
    assert client.get_model_version_by_alias(model, "previous").run_id == row(store, runs[0]).mlflow_id
    assert registry.rollback(store, model).line == f"champion of {model}: version 1 again, was version 2"
    found = champion(store, model)
    assert found is not None and found.version == "1"
    assert registry.rollback(store, model).promoted and champion(store, model).version == "2"  # type: ignore[union-attr]


def test_an_unregistered_model_name_is_an_error_of_the_user(store: Store, model: str) -> None:
    promote_run(store, model, ran(store, model, 1, 1.9), BITS)
    with pytest.raises(UserError, match=f"`rollback={model}x`: is not a registered model; did you mean '{model}'"):
        registry.rollback(store, f"{model}x")


def test_force_promotes_a_worse_run_and_updates_the_tags_of_a_champion(store: Store, model: str) -> None:
    first, worse = ran(store, model, 1, 1.8), ran(store, model, 2, 1.9)
    promote_run(store, model, first, BITS)
    candidate = registry.record(row(store, worse), BITS)
    assert not registry.promote(store, model, candidate).promoted
    assert registry.promote(store, model, candidate, force=True).promoted
    again = replace(candidate, tags={"gen_ray.sampling.metric": "m"})
    assert registry.promote(store, model, again).line.endswith("stays, with new tags")
    assert releases.release(store, f"models:/{model}@champion").metric == "m"


def test_releases_are_found_and_fetched_once(store: Store, model: str, tmp_path: Path) -> None:
    run = ran(store, model, 1, 1.8)
    promote_run(store, model, run, BITS)
    assert model in releases.champions(store)
    found = releases.release(store, f"models:/{model}@champion")
    assert found == releases.release(store, f"models:/{model}/1") and found.version == "1"
    folder = releases.fetch(store, found, tmp_path / "cache")
    assert (folder / "weights.safetensors").read_text() == run
    manifest.write(folder)
    assert releases.fetch(store, found, tmp_path / "cache") == folder and (folder / manifest.NAME).exists()
    (folder / "weights.safetensors").write_text("damaged")
    assert (releases.fetch(store, found, tmp_path / "cache") / "weights.safetensors").read_text() == run
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.mlflow_id]
    for wrong in (f"models:/{model}@nobody", f"models:/{model}/7", "models:/nothing-at-all@champion", "models:/../x/1"):
        with pytest.raises(UserError):
            releases.release(store, wrong)


def test_a_changed_artifact_is_stored_beside_the_first(store: Store, model: str, tmp_path: Path) -> None:
    run = row(store, ran(store, model, 1, 1.8))
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "weights.safetensors").write_text("averaged")
    manifest.write(folder)
    path, digest = releases.store_artifact(store, run.mlflow_id, folder)
    assert path.startswith("model-") and releases.store_artifact(store, run.mlflow_id, folder) == (path, digest)
    tags = releases.Release(version="", path=path, manifest=digest).tags()
    candidate = replace(registry.record(run, BITS), tags=tags)
    assert registry.promote(store, model, candidate).promoted
    found = releases.release(store, f"models:/{model}@champion")
    served = releases.fetch(store, found, tmp_path / "cache")
    assert (served / "weights.safetensors").read_text() == "averaged"
