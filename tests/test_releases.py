"""MLflow tags, which any user can set, affect neither which files are touched nor which model is served."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gen_ray import run_directory
from gen_ray.errors import RunError, UserError
from gen_ray.metrics import BITS_PER_DIM
from gen_ray.storage import manifest
from gen_ray.tracking import registry, release, releases, signing, versions
from gen_ray.tracking.registry import champion, promote_run
from gen_ray.tracking.runs import connect, row
from gen_ray.tracking.sources import RegistrySource
from gen_ray.tracking.store import Store
from tests.test_registry import ran

BITS = BITS_PER_DIM.name
KEY = "k" * 32
PATHS = ["/", "..", "../..", "model/../../..", "model-" + "g" * 12, "model/", "model\n", "", "a/b"]


@pytest.fixture
def store(storage: Path) -> Store:
    """Return the database of the session, because creating one takes seconds."""
    return Store.of(None, "registry", storage)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """Return the name of a model of this test only."""
    return f"m-{sha256(request.node.name.encode()).hexdigest()[:12]}"


@pytest.mark.parametrize("path", PATHS)
def test_a_tag_is_never_used_as_a_path(store: Store, tmp_path: Path, path: str) -> None:
    """A tag that names another folder is refused, and the folder is not removed."""
    other_file = tmp_path / "precious"
    other_file.mkdir()
    (other_file / "thesis.txt").write_text("all of it")
    cache = tmp_path / "serving" / "artifacts"
    for tags in ({versions.ARTIFACT: path}, {versions.ARTIFACT: path + str(other_file)}):
        with pytest.raises(RunError, match=r"its tag gen_ray\.artifact is"):
            releases.fetch(store, releases.Release.read("1", "0" * 32, tags), cache)
    for run_id in ("", "..", "../../precious", str(other_file), "0" * 31, "0" * 32 + "\n"):
        with pytest.raises(RunError, match="is not the id of an MLflow run"):
            releases.Release.read("1", run_id, {})
    assert (other_file / "thesis.txt").read_text() == "all of it"


def test_a_link_in_the_cache_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ("0" * 32)).symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="is a link that leads out of"):
        releases.fetch(store, releases.Release(version="1", mlflow_id="0" * 32), tmp_path / "cache")
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize("tags", [
    {"gen_ray.sampling.quality": "{"}, {"gen_ray.sampling.quality": "[1]"}, {"gen_ray.sampling.curve": '["x"]'},
    {"gen_ray.sampling.quality": '{"fast": {"colour": 1}}'}, {"gen_ray.sampling.curve": "[" * 100_000},
])  # fmt: skip
def test_tags_that_cannot_be_read_are_named(tags: dict[str, str]) -> None:
    with pytest.raises(RunError, match=r"version 1: its tag gen_ray\.sampling"):
        releases.Release.read("1", "0" * 32, tags)


@pytest.mark.parametrize("run_id", ["/etc", "..", "../x", "a/b", "a\n", "", "x" * 200])
def test_a_run_id_from_a_tag_is_not_taken_for_a_path(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UserError, match="cannot be the id of a run"):
        run_directory.artifact_of(run_id, tmp_path)


@pytest.mark.parametrize("name", ["a'b", "a/b", "..", "a\n", "' OR name LIKE '%"])
def test_a_name_is_never_used_as_a_query(store: Store, name: str) -> None:
    for use in (lambda: champion(store, name), lambda: registry.rollback(store, name)):
        with pytest.raises(UserError, match="the name of a model may only have letters"):
            use()


def test_only_the_last_used_artifacts_stay_in_the_cache(store: Store, model: str, tmp_path: Path) -> None:
    cache, old = tmp_path / "cache", [f"{number:032x}" for number in range(5)]
    for age, name in enumerate([*old, ".part-killed", "another-folder"]):
        (cache / name / "model").mkdir(parents=True)
        os.utime(cache / name, (0, time.time() - 7200 - age))
    promote_run(store, model, ran(store, model, 1, 1.8), BITS)
    found = releases.release(store, f"models:/{model}@champion")
    releases.fetch(store, found, cache)
    assert {path.name for path in cache.iterdir()} == {found.mlflow_id, *old[:2], "another-folder"}


def test_artifacts_of_the_older_layout_are_removed(store: Store, model: str, tmp_path: Path) -> None:
    """They were in the cache folder, one per run; a model of the present layout with the name of a run stays."""
    cache = tmp_path / "artifacts"
    unused, used, plain, named = (f"{number:032x}" for number in range(4))
    for below in (f"{unused}/model", f"{used}/model", plain, f"{named}/{unused}/model", "other/model"):
        (cache / below).mkdir(parents=True)
        (cache / below / manifest.NAME).touch()
    (cache / ".part-killed").mkdir()
    (cache / ("f" * 32)).symlink_to(cache / "other")
    for name in (unused, plain, named, "other", ".part-killed"):
        os.utime(cache / name, (0, time.time() - 7200))
    promote_run(store, model, ran(store, model, 1, 1.8), BITS)
    served = RegistrySource(store, f"models:/{model}@champion", cache / model)
    assert served.fetch(served.newest()).is_dir()
    assert {path.name for path in cache.iterdir()} == {used, named, "other", "f" * 32, model}


def test_an_artifact_that_is_not_the_promoted_one_is_replaced_or_refused(
    store: Store, model: str, tmp_path: Path
) -> None:
    candidate = promotable(store, model, tmp_path / "artifact")
    registry.promote(store, model, candidate)
    found, cache = releases.release(store, f"models:/{model}@champion"), tmp_path / "cache"
    served = releases.fetch(store, found, cache)
    (served / "weights.safetensors").write_text("changed")
    manifest.write(served)
    assert (releases.fetch(store, found, cache) / "weights.safetensors").read_text() == "w"
    with pytest.raises(RunError, match="is not the one that was promoted"):
        releases.fetch(store, replace(found, manifest="0" * 64), cache)
    assert (served / "weights.safetensors").read_text() == "w"


def promotable(store: Store, model: str, folder: Path) -> registry.VersionRecord:
    """Return the candidate version that gen-ray promote makes of a run with an artifact folder."""
    folder.mkdir()
    (folder / "weights.safetensors").write_text("w")
    manifest.write(folder)
    run = row(store, ran(store, model, 1, 1.8))
    path, digest = releases.store_artifact(store, run.mlflow_id, folder)
    tags = releases.Release(version="", path=path, manifest=digest).tags()
    return replace(registry.record(run, BITS), tags=tags)


def test_with_a_key_only_signed_versions_are_served(
    store: Store, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, served = promotable(store, model, tmp_path / "artifact"), f"models:/{model}@champion"
    registry.promote(store, model, candidate)
    digest = releases.release(store, served).manifest
    monkeypatch.setenv(signing.ENVIRONMENT, KEY)
    with pytest.raises(RunError, match="not signed with this GEN_RAY_SIGNING_KEY"):
        releases.release(store, served)
    with pytest.raises(RunError, match="not signed"):
        promote_run(store, model, ran(store, model, 2, 1.0), BITS)
    assert registry.promote(store, model, candidate, force=True).promoted
    assert releases.release(store, served).manifest == digest
    client = connect(store)
    version = client.get_model_version_by_alias(model, "champion").version
    for name in (versions.VALUE, release.MANIFEST, release.ARTIFACT, release.QUALITY):
        before = client.get_model_version(model, version).tags[name]
        client.set_model_version_tag(model, version, name, before + "0")
        with pytest.raises(RunError, match="not signed"):
            releases.release(store, served)
        client.set_model_version_tag(model, version, name, before)
    assert releases.release(store, served).manifest == digest
    monkeypatch.setenv(signing.ENVIRONMENT, "another key, which is long enough as well")
    with pytest.raises(RunError, match="not signed"):
        releases.release(store, served)
    for short in ("", "short"):
        monkeypatch.setenv(signing.ENVIRONMENT, short)
        with pytest.raises(UserError, match="GEN_RAY_SIGNING_KEY: has"):
            releases.release(store, served)
    monkeypatch.setenv(signing.ENVIRONMENT, KEY + "\n")  # as read from a file with a line end
    assert signing.key() == KEY.encode()


@pytest.mark.parametrize("last", ["the better one", "the worse one"])
@pytest.mark.parametrize("has_champion", [False, True])
def test_of_two_simultaneous_promotions_the_better_one_stays(
    store: Store, model: str, monkeypatch: pytest.MonkeyPatch, last: str, has_champion: bool
) -> None:
    """An MLflow server lacks a lock, so both find the same champion before either sets the alias."""
    if has_champion:
        promote_run(store, model, ran(store, model, 1, 2.0), BITS)
    better, worse = (registry.record(row(store, ran(store, model, n, bits)), BITS) for n, bits in ((2, 1.5), (3, 1.8)))
    waits = better if last == "the better one" else worse
    both, one_set = threading.Barrier(2), threading.Event()
    register, set_alias = MlflowClient.create_model_version, MlflowClient.set_registered_model_alias
    monkeypatch.setattr(registry, "exclusive", lambda *_: nullcontext())

    def register_together(client: MlflowClient, *args: Any, **options: Any) -> Any:
        both.wait(20)
        made = register(client, *args, **options)
        both.wait(20)
        return made

    def set_in_order(client: MlflowClient, name: str, alias: str, version: str) -> None:
        if alias == "champion" and client.get_model_version(name, version).run_id == waits.mlflow_id:
            assert one_set.wait(20)
        set_alias(client, name, alias, version)
        one_set.set()

    monkeypatch.setattr(MlflowClient, "create_model_version", register_together)
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_in_order)
    with ThreadPoolExecutor(2) as pool:
        verdicts = [pool.submit(registry.promote, store, model, each) for each in (better, worse)]
        assert verdicts[0].result().promoted
        verdicts[1].result()
    found = champion(store, model)
    assert found is not None and found.run_id == better.run_id and versions.PROMOTION not in found.tags
