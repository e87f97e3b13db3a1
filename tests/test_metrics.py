"""Declarations of metrics: a new one appears everywhere without a change of another file."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gen_ray import metrics
from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import feature_metrics, requirements
from gen_ray.errors import UserError
from gen_ray.metrics import METRICS, Metric, declared, sign
from gen_ray.sweeps.config import load
from gen_ray.tracking import comparison
from tests.sweeps.test_config import written
from tests.test_comparison import run

DENSITY = Metric(
    name="eval/density",
    unit="neighbours",
    label="density",
    higher_is_better=True,
    title="density",
    form="{:.1f}",
    objective=True,
    needs_features=True,
    provenance_of=metrics.FRECHET_DISTANCE.name,
)


@pytest.fixture
def density(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare a metric and its function, as a developer would."""
    for module in (metrics, comparison, requirements):
        monkeypatch.setattr(module, "METRICS", (*METRICS, DENSITY))
    measures = {**feature_metrics.MEASURES, DENSITY.name: lambda features: float(len(features.samples))}
    monkeypatch.setattr(feature_metrics, "MEASURES", measures)


@pytest.mark.usefixtures("density")
def test_a_new_metric_has_a_column_in_its_format_and_is_ranked_in_its_direction() -> None:
    one, other = run("a"), run("b")
    one.metrics["eval/density"], other.metrics["eval/density"] = 1.25, 2.25  # type: ignore[index]
    [table] = comparison.tables([one, other], "eval/density")
    column = table.header.index("density")
    assert [(line[0], line[column]) for line in table.lines] == [("b", "2.2"), ("a", "1.2")]
    assert table.descriptions[column] == "eval/density: neighbours, higher is better"
    assert comparison.provenance(one.tags, ["eval/density"]) == comparison.provenance(one.tags, ["eval/precision"])


@pytest.mark.usefixtures("density")
def test_a_new_metric_is_measured_and_its_absence_explained() -> None:
    features = feature_metrics.FeatureSets(
        samples=torch.rand(7, 2), reference=torch.rand(5, 2), held_out=torch.rand(5, 2), neighbours=3
    )
    assert feature_metrics.measured(features)["eval/density"] == 7
    spec = DataSpec(name="blank", kind="image", shape=(1, 8, 8), levels=256)
    missing = requirements.unmeasurable_metrics(spec, {"train": 9, "test": 9})
    assert missing["eval/density"].endswith("no Fréchet distance, precision, recall and density")


@pytest.mark.usefixtures("density")
def test_a_sweep_optimises_a_new_metric_in_its_direction(tmp_path: Path) -> None:
    assert load(written(tmp_path, metric="eval/density")).sweep.direction == "maximize"
    with pytest.raises(UserError, match="'eval/density'"):
        load(written(tmp_path, metric="eval/densty"))


@pytest.mark.parametrize(
    ("metric", "given", "direction"),
    [
        ("eval/bits_per_dim", {}, "minimize"),
        ("eval/recall", {}, "maximize"),
        ("eval/recall", {"direction": "minimize"}, "minimize"),
    ],
)
def test_the_direction_of_a_sweep_is_that_of_its_metric_unless_given(
    tmp_path: Path, metric: str, given: dict[str, str], direction: str
) -> None:
    sweep = load(written(tmp_path, metric=metric, **given)).sweep
    assert sweep.direction == sweep.model_dump()["direction"] == direction


def test_names_are_unique_and_a_name_without_declaration_has_the_defaults() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert sign("eval/unknown") == 1 and declared("eval/unknown").title == ""


def test_the_declarations_do_not_import_torch() -> None:
    code = "import sys, gen_ray.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
