"""Evaluation of models of tables: every metric, its provenance, the picture, and what the data do not allow."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen_ray import metrics as declared
from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.evaluate import bits_gap, evaluate, likelihood
from gen_ray.engine.evaluation.independent_columns import independent_nats
from gen_ray.engine.evaluation.provenance import comparison_key
from gen_ray.engine.evaluation.quality_metrics import quality_metric
from gen_ray.engine.evaluation.reference import ReferenceData
from gen_ray.engine.evaluation.requirements import unmeasurable_metrics, unsuitable
from gen_ray.engine.evaluation.table_evaluation import EvaluationRows, copy_figures, picture, table_figures
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.experiment import parse
from tests.engine.tiny_models import CPU
from tests.tabular_cases import coded, mixed_rows

NET = {"name": "columns", "width": 16, "depth": 1}
DISCRETE = {"name": "discrete", "kernel": "random_order", "net": NET}


def reference(n: int = 900, missing: float = 0.0, **settings: Any) -> tuple[DataSpec, ReferenceData, Tensor]:
    """Return the spec of mixed rows, two thirds of n as training and one as test rows, and as many other rows."""
    spec, codes = coded(mixed_rows(2 * n), target="label", **settings)
    x = torch.from_numpy(codes)
    x[:n][torch.rand(n, x.shape[1], generator=torch.Generator().manual_seed(0)) < missing] = -1
    data = ReferenceData(
        train=x[: 2 * n // 3], test=x[2 * n // 3 : n], rows_seed=0, fingerprint="abc", reference_split="train",
        extractor=None,
    )  # fmt: skip
    return spec, data, x[n:]


def untrained(spec: DataSpec, family: dict[str, Any] = DISCRETE, **evaluation: Any) -> Model:
    """Return a new model; the net of ``discrete`` predicts the frequencies of the codes of independent columns."""
    exp = parse(
        {
            "name": "rows",
            "family": family,
            "training": {"precision": "float32"},
            "evaluation": {"likelihood_rows": 200, "effort": 3, **evaluation},
        }
    )  # fmt: skip
    bound = exp.model(spec)
    net = bound.build_net().eval().requires_grad_(False)
    return Model(experiment=exp, family=bound, net=net, meta=artifact.describe(spec, "f" * 64, run_id="r", steps=1))


def test_rows_of_the_same_distribution_have_small_errors_and_copies_are_found() -> None:
    spec, data, others = reference()
    figures, how = table_figures(EvaluationRows.of(others, data, spec, 10_000), data)
    assert figures["eval/column_shape_error"] < 6 and figures["eval/pair_trend_error"] < 8
    for name in ("detection_auc", "detection_floor"):
        error = figures[f"eval/{name}_standard_error"]
        assert abs(figures[f"eval/{name}"] - 0.5) < 4 * error
    assert figures["eval/prediction_of_real"] > 0.8 and abs(figures["eval/prediction_gap"]) < 0.05
    found = how["eval/column_shape_error"]
    assert found.items() >= {"data": "abc", "reference_rows": 600, "samples": 900, "pairs": 15}.items()
    copied, _ = copy_figures(data.train, data, spec)
    fresh, about = copy_figures(others, data, spec)
    assert copied["eval/nearest_train_share"] > 0.7  # half of the training rows are compared
    assert abs(fresh["eval/nearest_train_share"] - 0.5) < 3 * fresh["eval/nearest_train_share_standard_error"]
    assert about["eval/nearest_train_share"]["rows"] == 300


def test_samples_lack_the_same_cells_as_real_rows_so_that_they_are_not_detected_by_them() -> None:
    spec, data, others = reference(missing=0.3)
    rows = EvaluationRows.of(others, data, spec, 10_000)
    assert np.isnan(rows.samples).mean() == pytest.approx(np.isnan(rows.real).mean(), abs=0.02)
    figures, _ = table_figures(EvaluationRows.of(others, data, spec, 10_000), data)
    assert abs(figures["eval/detection_auc"] - 0.5) < 4 * figures["eval/detection_auc_standard_error"]
    assert figures["eval/column_shape_error"] < 6


def test_an_evaluation_of_a_table_holds_every_metric_and_is_repeatable() -> None:
    spec, data, _ = reference()
    model = untrained(spec)
    one, two = (evaluate(model, data, device=CPU) for _ in range(2))
    found = {name: value for name, value in one.metrics.items() if "seconds" not in name}
    assert found == {name: value for name, value in two.metrics.items() if "seconds" not in name}
    assert all(map(math.isfinite, found.values())) and not one.unmeasured and not one.texts
    of_tables = [
        declared.BITS_PER_DIM, declared.BITS_PER_ROW, declared.BITS_BEYOND_MARGINALS, declared.BITS_GAP,
        declared.COLUMN_SHAPE_ERROR, declared.PAIR_TREND_ERROR, declared.DETECTION_AUC, declared.DETECTION_FLOOR,
        declared.PREDICTION_OF_SAMPLES,
        declared.PREDICTION_OF_REAL, declared.PREDICTION_GAP, declared.NEAREST_TRAIN_SHARE,
    ]  # fmt: skip
    assert {metric.name for metric in of_tables} <= found.keys() and "eval/frechet_distance" not in found
    assert all(declared.provenance_of(metric.name) in one.provenance for metric in of_tables)
    assert found["eval/bits_per_row"] == pytest.approx(6 * found["eval/bits_per_dim"])
    # The columns of the samples are independent: right marginals, wrong pairs, and nothing to learn from.
    assert found["eval/column_shape_error"] < 6 and found["eval/pair_trend_error"] > 9
    assert found["eval/prediction_of_samples"] < 0.65 < 0.85 < found["eval/prediction_of_real"]
    assert one.provenance["eval/column_shape_error"]["table_rows"] == 50_000
    assert np.array_equal(one.pictures["table"], two.pictures["table"])


def test_the_kind_is_partial_if_any_row_lacks_a_value() -> None:
    spec, data, _ = reference()
    model = untrained(spec)
    assert likelihood(model, data, device=CPU)[1]["eval/bits_per_dim"]["kind"] == "elbo-ct"
    data.test[150, 2] = -1  # in the second batch
    assert likelihood(model, data, device=CPU)[1]["eval/bits_per_dim"]["kind"] == "elbo-ct-partial"


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_independent_columns_have_no_bits_beyond_marginals(missing: float) -> None:
    spec, data, _ = reference()
    data.test[torch.rand(data.test.shape, generator=torch.Generator().manual_seed(1)) < missing] = -1
    found, _ = likelihood(untrained(spec), data, device=CPU)
    error = found["eval/bits_beyond_marginals_standard_error"]
    assert abs(found["eval/bits_beyond_marginals"]) < 3 * error and found["eval/bits_per_row"] > 20 * error
    independent = independent_nats(data.test[:200], spec) / math.log(2)
    assert found["eval/bits_per_row"] == pytest.approx(independent.mean().item(), abs=3 * error)


FAMILIES: list[dict[str, Any]] = [
    {"name": "discrete", "kernel": "uniform", "net": NET},
    {"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": [8]}},
    {"name": "ddpm", "steps": 20, "net": {"name": "mlp", "width": 8, "depth": 1}},
    {"name": "score_sde", "net": {"name": "mlp", "width": 8, "depth": 1}},
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family["name"])
def test_bits_beyond_marginals_are_those_of_the_same_cells_for_every_family(family: dict[str, Any]) -> None:
    spec, data, _ = reference(missing=0.2)
    model = untrained(spec, family, likelihood_rows=30)
    found, how = likelihood(model, data, device=CPU)
    independent = independent_nats(data.test[:30], spec).mean().item() / math.log(2)
    difference = found["eval/bits_per_row"] - found["eval/bits_beyond_marginals"]
    assert difference == pytest.approx(independent, rel=1e-6)
    assert how["eval/bits_beyond_marginals"]["kind"].endswith("-partial")


def test_bits_beyond_marginals_are_ranked_together_for_all_codings_of_the_same_rows() -> None:
    spec, data, _ = reference()
    coarse, fewer, _ = reference(intervals=8)
    mine, others = replace(data, source_fingerprint="raw"), replace(fewer, fingerprint="def", source_fingerprint="raw")
    fine = likelihood(untrained(spec), mine, device=CPU)[1]
    same_rows = likelihood(untrained(coarse), others, device=CPU)[1]
    other_rows = likelihood(untrained(spec), replace(mine, source_fingerprint="other"), device=CPU)[1]
    fewer_rows = likelihood(untrained(spec, likelihood_rows=100), mine, device=CPU)[1]
    unknown = likelihood(untrained(coarse), fewer, device=CPU)[1]
    name = "eval/bits_beyond_marginals"
    assert comparison_key(fine[name]) == comparison_key(same_rows[name])
    assert len({str(comparison_key(how[name])) for how in (fine, other_rows, fewer_rows, unknown)}) == 4
    assert comparison_key(fine["eval/bits_per_dim"]) != comparison_key(same_rows["eval/bits_per_dim"])


def test_the_gap_in_bits_is_that_of_the_two_splits() -> None:
    spec, data, _ = reference()
    model = untrained(spec)
    gap = bits_gap(model, data, 200, device=CPU)
    bits = [
        likelihood(model, replace(data, test=x), device=CPU)[0]["eval/bits_per_dim"] for x in (data.train, data.test)
    ]
    assert gap["eval/bits_gap"] == pytest.approx(bits[1] - bits[0])
    assert abs(gap["eval/bits_gap"]) < 4 * gap["eval/bits_gap_standard_error"]
    assert bits_gap(model, replace(data, test=data.test[:1]), 200, device=CPU) == {}


def test_few_rows_and_single_columns_are_reported_before_and_after() -> None:
    spec, data, _ = reference()
    few = replace(data, test=data.test[:4])
    report = evaluate(untrained(spec), few, device=CPU)
    assert report.unmeasured == ("rows: the test split has fewer than 5 rows: no detection AUC",)
    missing = unmeasurable_metrics(spec, {"train": 600, "test": 4})
    assert list(missing) == ["eval/detection_auc"] and not missing.keys() & report.metrics.keys()
    single, codes = coded({"n": np.arange(100.0)})
    x = torch.from_numpy(codes)
    one = evaluate(untrained(single), replace(data, train=x, test=x), device=CPU)
    assert "a single column" in one.unmeasured[0] and "eval/pair_trend_error" not in one.metrics
    assert quality_metric(single, replace(data, train=x, test=x)) is None


def test_metrics_of_other_kinds_of_data_and_of_a_missing_target_are_unsuitable() -> None:
    spec, _, _ = reference()
    image = DataSpec(name="faces", kind="image", shape=(1, 8, 8), levels=17)
    for metric in (metric for metric in declared.METRICS if metric.objective):
        assert (unsuitable(spec, metric.name) == "") == (not metric.needs_features)
        assert (unsuitable(image, metric.name) == "") == (not metric.needs_table)
    assert unsuitable(spec, "eval/recall") == "rows does not hold images"
    assert unsuitable(image, "eval/bits_beyond_marginals") == "faces is not a table"
    without = spec.model_copy(update={"target": None})
    assert "data.options.target" in unsuitable(without, "eval/prediction_gap")
    assert unsuitable(without, "eval/detection_auc") == unsuitable(without, "") == ""


def test_the_picture_shows_at_most_thirty_columns() -> None:
    spec, data, others = reference()
    drawn = picture(EvaluationRows.of(others, data, spec, 1000))
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3 and drawn.shape[1] <= 1200
    rng = np.random.default_rng(0)
    wide, codes = coded({f"column {i}": rng.normal(size=200) for i in range(40)}, intervals=8)
    x = torch.from_numpy(codes)
    large = picture(EvaluationRows.of(x, replace(data, train=x, test=x), wide, 1000))
    assert large.shape[0] <= 1200 and large.shape[1] <= 1200


def test_the_quality_of_samples_at_a_promotion_is_their_pair_trend_error() -> None:
    spec, data, others = reference()
    metric = quality_metric(spec, data)
    assert metric is not None and metric.metric == "pair_trend_error"
    good, error = metric(others)
    shuffled = torch.stack([column[torch.randperm(len(others))] for column in others.T], 1)
    assert 0 < good < 8 and 0 < error < 2 and metric(shuffled)[0] > good + 3 * error
