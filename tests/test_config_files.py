"""Configuration files: a file of the wrong kind is named, and an error names the file that contains it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gen_ray import experiment
from gen_ray.errors import UserError, nearest
from gen_ray.sweeps import config as sweeps
from tests.conftest import ROOT

TRAINING = ROOT / "configs/demo/digits-vae.yaml"
SWEEP = ROOT / "configs/sweeps/digits-vae-latent-dims.yaml"


@pytest.mark.parametrize(
    ("load", "file", "expected"),
    [
        (sweeps.load, TRAINING, "digits-vae.yaml: configures a training .*not a sweep: gen-ray train"),
        (experiment.load, SWEEP, "latent-dims.yaml: configures a sweep .*not a training: gen-ray sweep"),
        (experiment.load, ROOT / "configs/serve/demo.yaml", "demo.yaml: configures a Serve application"),
        (experiment.load, ROOT / "configs/cluster/local.yaml", "local.yaml: configures a Ray cluster"),
        (experiment.load, ROOT / "configs/overlays/gpu.yaml", "gpu.yaml: family.name: is required"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_a_file_of_another_kind_is_named(load: Callable[[Path], object], file: Path, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load(file)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.epoch=3"], "training.epoch: training "),
        (["{overlay}"], "{overlay}: training.epoch: training "),
        (["family.latent_dim=4", "{overlay}", "training.seed=1"], "{overlay}: training.epoch: "),
        ([str(SWEEP)], "latent-dims.yaml: configures a sweep"),
    ],
)
def test_an_error_is_reported_with_the_file_that_contains_it(
    tmp_path: Path, overrides: list[str], expected: str
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"training": {"epoch": 3}}))
    with pytest.raises(UserError) as fault:
        experiment.load(TRAINING, [word.format(overlay=overlay) for word in overrides])
    expected = expected.format(overlay=overlay)
    assert str(fault.value).startswith(expected) or (expected in str(fault.value) and "configures" in expected)


def test_an_error_in_a_file_is_reported_with_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: a\nfamily: vae\ntraining: {epoch: 3}\n")
    (tmp_path / "sweep.yaml").write_text(
        "name: a\nexperiment: base.yaml\nspace: {family.latent_dim: {choice: [1]}}\nx: 1"
    )
    with pytest.raises(UserError, match=r"base\.yaml: training\.epoch: "):
        experiment.load(tmp_path / "base.yaml", ["training.seed=1"])
    with pytest.raises(UserError, match=r"sweep\.yaml: x: "):
        sweeps.load(tmp_path / "sweep.yaml")


def test_the_hint_for_a_name_states_that_no_names_exist() -> None:
    assert nearest("x", []) == "there are none"
