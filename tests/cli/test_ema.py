"""gen-ray ema: averages of a finished run are measured, and the best becomes its model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gen_ray.cluster.training.train import train
from gen_ray.engine.inference import artifact
from gen_ray.engine.training import post_hoc_ema
from tests.cluster.tiny_runs import same, tiny, weights
from tests.conftest import CommandResult

pytestmark = pytest.mark.usefixtures("cluster")


def test_the_best_average_becomes_the_model(gen_ray: Callable[..., CommandResult], tmp_path: Path) -> None:
    experiment = tiny(tmp_path, training={"epochs": 3, "ema_decay": 0.999})  # such a long average is bad here
    done = train(experiment)
    home, before = done.artifact.parent, done.metrics["eval/bits_per_dim"]
    for words, expected in (
        (("--by", "fid"), "--by 'fid'"),
        (("--sigma-rel", "0.9"), "--sigma-rel: a power-function average"),
        (("--sigma-rel", "0.02", "0.2"), "--sigma-rel: width 0.02 does not fit"),
    ):
        result = gen_ray("ema", "tiny", *words, "--storage", tmp_path)
        assert result.code == 2 and expected in result.fault
    result = gen_ray("ema", "tiny", "--sigma-rel", "0.07", "0.2", "--storage", tmp_path)
    assert result.code == 0 and not result.err, result
    best = result.out.rsplit(": ", 1)[1].strip()
    meta = json.loads((done.artifact / "meta.json").read_text())
    assert best == f"sigma_rel={meta['ema']['sigma_rel']:g}" and meta["metrics"]["eval/bits_per_dim"] < before
    assert same(weights(done.artifact), post_hoc_ema.average(home, meta["ema"]["sigma_rel"]))
    assert artifact.load(done.artifact).meta["run_id"] == done.run_id and not (home / ".candidates").exists()
    for name in ("as trained", "sigma_rel=0.07", "sigma_rel=0.2", "residual", f"{before:.4f}"):
        assert name in result.out


def test_the_quality_of_a_run_is_drawn_against_its_minutes(
    gen_ray: Callable[..., CommandResult], tmp_path: Path
) -> None:
    done = train(tiny(tmp_path, training={"epochs": 4, "ema_snapshots": 4}))
    minutes = done.artifact.parent.name
    picture = tmp_path / "progress.png"
    result = gen_ray("figure", "progress", "tiny", "--times", 2, "--storage", tmp_path, "--out", picture)
    assert result.code == 0 and not result.err, result
    table = [line.replace("│", " ").split() for line in result.out.splitlines() if minutes in line]
    assert len(table) == 2 and result.out.rstrip().endswith(f"curves: {picture}")
    early, late = (float(bits) for _, _, bits, _ in table)
    assert late < early and float(table[0][1]) <= float(table[1][1])
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 2 * drawn.size[1]
    for words, expected in ((("unknown",), "unknown: no such"), (("tiny", "--times", "1"), "--times")):
        result = gen_ray("figure", "progress", *words, "--storage", tmp_path)
        assert result.code == 2 and expected in result.fault
