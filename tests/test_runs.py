"""Run folders: ids are unique, and a MODEL is found by folder, run id or name."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gen_ray import run_directory
from gen_ray.errors import UserError
from gen_ray.experiment import parse


@pytest.fixture(autouse=True)
def at_one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_ray.run_directory.time.strftime", lambda *form: "20260101-000000")


def make(root: Path, run_id: str, *, finished: bool = True) -> Path:
    home = root / "runs" / run_id
    home.mkdir(parents=True)
    if finished:
        (home / "artifact").mkdir()
        (home / "artifact" / "meta.json").write_text("{}")
    return home


def test_ids_of_one_second_differ_and_are_valid_in_paths(tmp_path: Path) -> None:
    experiment = parse({"name": "a", "family": "vae", "storage": {"root": str(tmp_path)}})
    with ThreadPoolExecutor(8) as pool:
        ids = sorted(
            pool.map(lambda _: run_directory.new_id(experiment), range(12)), key=lambda run_id: (len(run_id), run_id)
        )
    for run_id in ids:
        run_directory.save(experiment, run_id)
    assert len(set(ids)) == 12 and all(re.fullmatch(r"a-\d{8}-\d{6}(-\d+)?", run_id) for run_id in ids)
    assert all(run_directory.load(run_directory.folder(experiment, run_id)) == experiment for run_id in ids)


def test_ids_of_one_second_differ_on_an_object_store(s3: Path, tmp_path: Path) -> None:
    root = s3 / tmp_path.name
    experiment = parse({"name": "a", "family": "vae", "storage": {"root": str(root)}})
    ids = {run_directory.new_id(experiment) for _ in range(2)}
    for run_id in ids:
        run_directory.save(experiment, run_id)
    assert len(ids) == 2 and {run.name for run in run_directory.named("a", root / "runs")} == ids


def test_a_model_is_found_by_folder_run_id_or_name_of_the_newest_run(tmp_path: Path) -> None:
    homes = [make(tmp_path, f"a-2026010{day}-000000") for day in (1, 2)] + [make(tmp_path, "a-20260102-000000-2")]
    homes += [make(tmp_path, f"a-20260102-000000-{number}") for number in range(3, 12)]
    make(tmp_path, "a-20260103-000000", finished=False)
    expected = {str(homes[0] / "artifact"): 0, str(homes[0]): 0, homes[1].name: 1, "a": -1}
    for model, index in expected.items():
        assert run_directory.find_artifact(model, tmp_path) == homes[index] / "artifact"


def test_a_missing_model_is_reported_with_the_nearest_run(tmp_path: Path) -> None:
    make(tmp_path, "digits-vae-20260101-000000")
    with pytest.raises(UserError, match=r"did you mean 'digits-vae-20260101-000000'"):
        run_directory.find_artifact("digits-vea-20260101-000000", tmp_path)
    with pytest.raises(UserError, match="no such artifact folder"):
        run_directory.find_artifact("x", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("model", "root", "expected"),
    [
        ("x", "nowhere", "the storage folder .*nowhere does not exist; argument `storage`"),
        ("x", "empty", "empty/runs holds no finished runs; argument `storage`"),
        ("b", ".", "the runs of that name in .*runs have not finished; argument `resume` of gen-ray train"),
        ("b-20260101-000000", ".", "have not finished"),
        ("{tmp}/empty", ".", "empty: is a folder, but not an artifact folder"),
        ("{tmp}/file", ".", "file: is a file, but not an artifact folder"),
    ],
)
def test_a_model_that_is_missing_is_reported_with_the_reason(
    tmp_path: Path, model: str, root: str, expected: str
) -> None:
    make(tmp_path, "a-20260101-000000")
    make(tmp_path, "b-20260101-000000", finished=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=expected) as fault:
        run_directory.find_artifact(model.format(tmp=tmp_path), tmp_path / root)
    assert "known:" not in str(fault.value)
