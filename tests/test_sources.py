"""Sources of models: a folder, a run, or a run in MLflow; other weights are another version."""

from pathlib import Path

import pytest

from gen_ray import run_directory
from gen_ray.errors import RunError, UserError
from gen_ray.storage import manifest
from gen_ray.storage import paths as storage
from gen_ray.tracking import signing
from gen_ray.tracking.runs import RUN_ID, TrackedRun
from gen_ray.tracking.sources import FolderSource, folder_of
from gen_ray.tracking.store import Store


def fill(content: str, draft: Path) -> None:
    (draft / "meta.json").write_text("{}")
    (draft / "weights.safetensors").write_text(content)
    manifest.write(draft)


def recorded(root: Path, run_id: str) -> str:
    """Return the MLflow id of a run with an artifact below root and in MLflow."""
    home = root / "runs" / run_id
    storage.commit(home / run_directory.ARTIFACT, lambda draft: fill(run_id, draft))
    run = TrackedRun(Store.of(None, "sources", root), run_id, name="a", params={}, tags={})
    run.log_artifact(home / run_directory.ARTIFACT, "model")
    run.close("FINISHED")
    return run.id


@pytest.mark.slow
def test_an_mlflow_run_means_its_folder_or_else_its_artifact(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_id = recorded(storage, "sources-20260101-000000")
    uri, folder = (
        Store.of(None, "sources", storage).uri,
        storage / "runs" / "sources-20260101-000000" / run_directory.ARTIFACT,
    )
    for model in (mlflow_id, f"runs:/{mlflow_id}"):
        assert folder_of(model, storage) == folder
        fetched = folder_of(model, tmp_path / "elsewhere", uri)
        assert fetched.is_relative_to(tmp_path) and (fetched / "weights.safetensors").read_text() == folder.parent.name
    assert folder_of(f"runs:/{mlflow_id}/model", storage) != folder
    for model in (f"runs:/{mlflow_id}/../../x", f"runs:/{mlflow_id}/config", f"{mlflow_id}//etc"):
        with pytest.raises(UserError, match="the artifacts of a run are"):
            folder_of(model, storage)
    with pytest.raises(
        RunError, match=r"MLflow at|lacks the artifact model-000000000000 in MLflow; gen-ray promote uploads"
    ):
        folder_of(f"runs:/{mlflow_id}/model-000000000000", storage)
    with pytest.raises(UserError, match="no such run in"):
        folder_of("0" * 32, storage)
    monkeypatch.setenv(signing.ENVIRONMENT, "k" * 32)
    with pytest.raises(UserError, match="a run of MLflow is not signed"):
        folder_of(mlflow_id, storage)
    signing.require()
    monkeypatch.delenv(signing.ENVIRONMENT)
    with pytest.raises(UserError, match="not for its replicas"):
        signing.require()


@pytest.mark.parametrize("tag", ["../../etc", "/etc", ""])
def test_the_run_id_in_a_tag_is_not_taken_for_a_path(storage: Path, tag: str) -> None:
    store = Store.of(None, "sources", storage)
    run = TrackedRun(store, "foreign-20260101-000000", name="a", params={}, tags={})
    run.set_tags({RUN_ID: tag})
    with pytest.raises(UserError, match=r"is not a run of gen_ray, its tag gen_ray\.run_id is"):
        folder_of(run.id, storage)


def test_other_weights_in_a_folder_are_another_version(tmp_path: Path) -> None:
    folder = tmp_path / "digits-20260101-000000" / "artifact"
    storage.commit(folder, lambda draft: fill("as trained", draft))
    source = FolderSource(folder)
    first = source.newest()
    assert first == source.newest() and first.version.startswith("digits-20260101-000000@")
    storage.commit(folder, lambda draft: fill("averaged", draft))
    assert source.newest() != first and source.newest().version != first.version
    storage.remove(folder)
    with pytest.raises(UserError, match=r"cannot be trusted: .*MANIFEST\.sha256: missing"):
        source.newest()


def test_an_id_that_no_mlflow_run_has_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs:/abcdef: MLflow cannot have such a run, .*32 hexadecimal digits"):
        folder_of("runs:/abcdef", tmp_path)
