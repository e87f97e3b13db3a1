"""Scores of files: bits of rows and cells compared with a known joint, also for rows with missing cells."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows.blocks import inspect
from gen_ray.engine.inference.rows.run import run_here
from gen_ray.engine.inference.rows.score import ExpectedBits, ScoreTask, expected_bits, summary
from gen_ray.errors import UserError
from gen_ray.experiment import parse
from tests import tabular_joint
from tests.engine.row_models import CPU, perfect_model


def test_bits_are_those_of_the_known_joint(tmp_path: Path) -> None:
    model = perfect_model()
    (tmp_path / "rows.csv").write_text("note,number,truth,letter\n" + "x,3,true,b\n" * 400 + "y,,false,\n,NA,,\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    expected = expected_bits(model, 3, CPU)
    entropy = float((-tabular_joint.P * tabular_joint.P.log2()).sum())
    assert expected.row == pytest.approx(entropy, abs=0.15)
    task = ScoreTask(source=source, suffix=".csv", effort=3, seed=0, expected=expected)
    [result] = run_here(model, task, source, frozenset(), CPU)
    rows = list(csv.DictReader(io.StringIO(result.files["rows"].content.decode())))
    assert list(rows[0])[:6] == ["note", "number", "truth", "letter", "bits", "most_unusual"]
    exact = -float(tabular_joint.log_p(torch.tensor([[2, 1, 1]]))) / math.log(2)
    bits = np.array([float(row["bits"]) for row in rows[:400]])
    assert abs(bits.mean() - exact) < 5 * bits.std() / 20 + 1e-3
    for row, codes in zip((rows[0], rows[400]), ([2, 1, 1], [-1, 0, -1]), strict=True):
        for d, name in enumerate(("number", "truth", "letter")):
            others = [-1 if i == d else code for i, code in enumerate(codes)]
            both, rest = (float(tabular_joint.log_p(torch.tensor([x]))) for x in (codes, others))
            assert float(row[f"{name}_bits"] or 0) == pytest.approx((rest - both) / math.log(2), abs=1e-3), "exact"
    assert len({row["truth_bits"] for row in rows[:400]}) == 1, "bits of cells do not depend on a drawn order"
    assert rows[400]["number_bits"] == rows[400]["letter_bits"] == "" and rows[400]["most_unusual"] == "truth"
    alone = -float(tabular_joint.log_p(torch.tensor([[-1, 0, -1]]))) / math.log(2)
    assert float(rows[400]["bits"]) == pytest.approx(alone, abs=1e-3)
    assert rows[401]["bits"] == "0" and rows[401]["most_unusual"] == ""
    lines = summary([result.statistics], expected)
    assert "(elbo-ct-partial)" in lines[0] and len(lines) == 6 and lines[1].startswith("row ")


def test_a_family_that_does_not_tell_cells_scores_rows(tmp_path: Path) -> None:
    model = perfect_model("order")
    (tmp_path / "rows.csv").write_text("number,truth,letter\n0,true,a\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    task = ScoreTask(source=source, suffix=".csv", effort=1, seed=0, expected=expected_bits(model, 1, CPU))
    [result] = run_here(model, task, source, frozenset(), CPU)
    assert result.files["rows"].content.startswith(b"number,truth,letter,bits\n0,true,a,")
    assert "bits per row (ar); " in summary([result.statistics], task.expected)[0]


@pytest.mark.parametrize("family", ["ddpm", "score_sde", "vae"])
def test_every_family_scores_rows_with_missing_cells(tmp_path: Path, family: str) -> None:
    """Regression: the density of a flow needs gradients, which are not available in inference mode."""
    experiment = parse({"name": "joint", "family": {"name": family, "net": "mlp"}})
    torch.manual_seed(0)
    maths = experiment.model(tabular_joint.spec())
    model = Model(experiment=experiment, family=maths, net=maths.build_net().eval().requires_grad_(False), meta={})
    (tmp_path / "rows.csv").write_text("number,truth,letter\n0,true,a\n,false,\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    expected = expected_bits(model, 2, CPU)
    task = ScoreTask(source=source, suffix=".csv", effort=2, seed=0, expected=expected)
    [result] = run_here(model, task, source, frozenset(), CPU)
    rows = list(csv.DictReader(io.StringIO(result.files["rows"].content.decode())))
    assert len(rows) == 2 and all(0 < float(row["bits"]) < 20 for row in rows)
    assert "-partial" in summary([result.statistics], expected)[0]


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    model = perfect_model()
    (tmp_path / "rows.csv").write_text("number,bits\n0,1\n")
    source = inspect(tmp_path / "rows.csv", model.spec.columns)
    task = ScoreTask(source=source, suffix=".csv", effort=1, seed=0, expected=ExpectedBits(0.0, None))
    with pytest.raises(UserError, match="has a column 'bits' already; rename it"):
        task.names()
    assert replace(task, source=replace(source, path=tmp_path / "no.csv")) != task
