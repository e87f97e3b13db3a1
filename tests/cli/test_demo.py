"""gen-ray demo trains every config of configs/demo and joins their summary figures; training is replaced here."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen_ray.cluster.training.train import TrainOutcome
from gen_ray.experiment import Experiment, load
from tests.conftest import ROOT, CommandResult

NAMES = sorted(load(file).name for file in (ROOT / "configs" / "demo").glob("*.yaml"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Experiment]:
    """Return the experiments that demo trains, in order; run i has i bits, and a picture of grey level 40·i."""
    experiments: list[Experiment] = []

    def train(experiment: Experiment, **_: object) -> TrainOutcome:
        experiments.append(experiment)
        bits = float(len(experiments))
        metrics = {"eval/bits_per_dim": bits}
        if experiment.data.source == "wine":
            metrics = {"eval/bits_per_dim": bits / 14, "eval/bits_per_row": bits}
        return TrainOutcome(run_id=f"{experiment.name}-1", artifact=tmp_path, metrics=metrics, provenance={})

    def portray(experiment: Experiment, prepared: object, folder: Path) -> np.ndarray:
        assert experiment is experiments[-1] and folder == tmp_path
        return np.full((30, 300, 3), 40 * len(experiments), np.uint8)

    monkeypatch.setattr("gen_ray.cluster.training.train.train", train)
    monkeypatch.setattr("gen_ray.cluster.evaluation.evaluate.make_summary_figure", portray)
    monkeypatch.setattr("gen_ray.cluster.nodes.connect.connected", lambda scaling: nullcontext())
    monkeypatch.setattr("pipelines.terminal.show_runs", lambda store, sort, only: print("table of", *only))
    return experiments


def test_every_family_is_trained_and_shown_under_its_name(
    gen_ray: Callable[..., CommandResult], trained: list[Experiment], tmp_path: Path
) -> None:
    out = tmp_path / "demo.png"
    result = gen_ray("demo", "--storage", tmp_path / "runs", "--out", out)
    assert result.code == 0 and not result.err, result
    assert [experiment.name for experiment in trained] == NAMES and len(NAMES) == 5
    lines = [f"{name}: {i}.000 bits/{'row' if name.startswith('wine') else 'dim'}" for i, name in enumerate(NAMES, 1)]
    assert all(f"{line}\n" in result.out for line in lines)
    assert f"table of {' '.join(f'{name}-1' for name in NAMES)}" in result.out
    assert (
        f"completed test images, and the table's marginals: {out}" in result.out
        and f"gen-ray sample {NAMES[0]}-1 --storage" in result.out
    )
    picture = np.asarray(Image.open(out))
    for i in range(5):
        left = 16 + i * 316
        assert (picture[28:58, left : left + 300] == 40 * (i + 1)).all()
        assert (picture[:28, left : left + 300] < 128).any() and (picture[:, left - 16 : left] == 255).all()
