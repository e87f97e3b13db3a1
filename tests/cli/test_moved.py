"""A storage folder that was moved without the raw files of its data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gen_ray import run_directory
from gen_ray.cluster.data.preparation import prepare_data, training_data
from gen_ray.datasets.prepare import SourceOptions, prepare
from gen_ray.engine.inference import artifact
from gen_ray.errors import UserError
from gen_ray.experiment import load
from tests.conftest import ROOT, CommandResult

CONFIG = ROOT / "configs" / "demo" / "digits-vae.yaml"
RUN = "v-20260101-000000"


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the new path of a storage with an untrained run on a folder of images that no longer exists."""
    raw, root = tmp_path / "raw", tmp_path / "old"
    raw.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(raw / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    words = [
        f"storage.root={root}",
        "data.source=image_folder:raw",
        "name=v",
        "family.net.hidden=[8]",
        "evaluation.effort=2",
    ]
    experiment = load(CONFIG, words)
    data = prepare("image_folder:raw", out=root / "data")
    family = experiment.model(data.spec)
    meta = artifact.describe(data.spec, data.fingerprint, run_id=RUN, steps=0)
    torch.manual_seed(0)
    model = artifact.Model(experiment=experiment, family=family, net=family.build_net().eval(), meta=meta)
    artifact.write(root / "runs" / RUN / run_directory.ARTIFACT, model)
    shutil.move(root, tmp_path / "new")
    shutil.rmtree(raw)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "new"


def test_data_are_found_by_their_fingerprint(moved: Path) -> None:
    for model, root in ((RUN, moved), (str(moved / "runs" / RUN), Path("gen_ray_runs").absolute())):
        folder = run_directory.find_artifact(model, root)
        experiment = run_directory.settings(folder, root)
        assert experiment.storage.root == moved
        assert training_data(experiment, folder).folder.parent == moved / "data"
    assert not [*Path().iterdir()] and not (moved.parent / "old").exists()


def test_score_reads_the_data_of_the_model(gen_ray: Callable[..., CommandResult], moved: Path) -> None:
    result = gen_ray("score", "v", "-n", 3, "--storage", moved)
    assert result.code == 0 and "raw test " in result.out, result
    assert not [*Path().iterdir()]


def test_prepared_data_replace_a_source_without_its_files(moved: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = run_directory.settings(run_directory.find_artifact(RUN, moved), moved)
    assert prepare_data(experiment).folder.parent == moved / "data"
    assert "no such folder; using the data prepared from it" in caplog.text
    with pytest.raises(UserError, match="no such folder"):
        prepare("image_folder:raw", out=moved / "data", options=SourceOptions(image_size=4))
