"""Evaluation of a model: bits per dimension, and the distance of its samples from the data, with provenance."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_ray.engine.evaluation.copies import mean_gap
from gen_ray.engine.evaluation.feature_metrics import MANIFOLD_ROWS, MEASURES, FeatureSets, measured
from gen_ray.engine.evaluation.features import Extractor
from gen_ray.engine.evaluation.independent_columns import independent_nats
from gen_ray.engine.evaluation.provenance import planned_provenance
from gen_ray.engine.evaluation.reference import ReferenceData as ReferenceData
from gen_ray.engine.evaluation.requirements import unmeasurable_metrics
from gen_ray.engine.evaluation.table_evaluation import EvaluationRows, copy_figures, picture, table_figures
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.score import bits_per_dim, effort_of, nll_batches
from gen_ray.engine.inference.texts import page
from gen_ray.engine.plots.grids import grid
from gen_ray.metrics import (
    BITS_BEYOND_MARGINALS,
    BITS_GAP,
    BITS_PER_DIM,
    BITS_PER_ROW,
    COLUMN_SHAPE_ERROR,
    FRECHET_DISTANCE,
    SECONDS_PER_IMAGE,
    Metric,
    standard_error_of,
)

PREVIEW_SAMPLES = 64
"""Number of samples in the picture or page of the report."""
SEED = 0
COPY_SAMPLES, COPY_ROWS = 1000, 250
"""Numbers of samples, and of rows of each split, of ``copy_report``."""
PARTIAL = "-partial"
"""Suffix of the kind of a likelihood of rows with missing values."""
TABLE_LOGITS = 2**22
"""Number of logits of a batch of samples of a table."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Metrics with units in their names, their provenance, pictures uint8 (H, W, 3) and texts.

    ``unmeasured`` holds one line for each metric that the data do not allow.
    """

    metrics: Mapping[str, float]
    provenance: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, np.ndarray]
    texts: Mapping[str, str]
    unmeasured: Sequence[str] = ()


def evaluate(model: Model, reference: ReferenceData, *, device: torch.device) -> EvaluationReport:
    """Measure the likelihood on the test split and, where the data allow it, the quality of samples."""
    metrics, provenance = likelihood(model, reference, device=device)
    rows = {"train": len(reference.train), "test": len(reference.test)}
    missing = unmeasurable_metrics(
        model.spec, rows, reference.reference_split, has_extractor=reference.extractor is not None
    )
    samples, seconds = sample(model, _sample_count(model, reference, missing), device=device)
    metrics[SECONDS_PER_IMAGE.name] = seconds
    spec, preview = model.spec, samples[:PREVIEW_SAMPLES]
    pictures = {"samples": grid(preview, levels=spec.levels)} if spec.is_image else {}
    if spec.is_table:
        metrics |= bits_gap(model, reference, model.experiment.evaluation.likelihood_rows, device=device)
        figures, how, pictures = _of_table(model, samples, reference)
        metrics, provenance = metrics | figures, provenance | how
    elif FRECHET_DISTANCE.name not in missing and reference.extractor is not None:
        figures, how = distances(model, samples, reference, reference.extractor)
        metrics, provenance = metrics | figures, provenance | how
    return EvaluationReport(
        metrics=metrics,
        provenance=provenance,
        pictures=pictures,
        texts={"samples": page(preview, spec)} if spec.is_text else {},
        unmeasured=tuple(dict.fromkeys(missing.values())),
    )


def _sample_count(model: Model, reference: ReferenceData, missing: Mapping[str, str]) -> int:
    """Return the number of samples: of a table as many as training rows; few if they are only shown and timed."""
    settings = model.experiment.evaluation
    if model.spec.is_table:
        return max(1, min(len(reference.train), settings.table_rows))
    return settings.samples if FRECHET_DISTANCE.name not in missing else min(settings.samples, PREVIEW_SAMPLES)


def _of_table(
    model: Model, samples: Tensor, reference: ReferenceData
) -> tuple[dict[str, float], dict[str, Mapping[str, Any]], dict[str, np.ndarray]]:
    """Return metrics, provenance and the picture of samples of a table (N, D)."""
    rows = EvaluationRows.of(samples, reference, model.spec, model.experiment.evaluation.table_rows)
    figures, how = table_figures(rows, reference)
    copies, about = copy_figures(samples, reference, model.spec)
    planned = planned_provenance(model.experiment)[COLUMN_SHAPE_ERROR.name]
    how = {name: {**planned, **parts} for name, parts in how.items()}
    return figures | copies, how | about, {"table": picture(rows)}


def likelihood(
    model: Model, reference: ReferenceData, *, device: torch.device
) -> tuple[dict[str, float], dict[str, Mapping[str, Any]]]:
    """Return bits per dimension of the test split, its standard error and evaluations, and their provenance.

    For tables also bits per row, and bits per row minus those of independent columns. The standard error needs two
    rows.
    """
    settings, dims = model.experiment.evaluation, model.spec.dims
    x = reference.test[: settings.likelihood_rows]
    batches = list(nll_batches(model, x, SEED, effort=effort_of(model), device=device))
    nats = torch.cat([nll.nats for nll in batches]).double().cpu()
    metrics = {
        **_mean(BITS_PER_DIM, bits_per_dim(nats, dims)),
        f"{BITS_PER_DIM.name}_nfe": float(max(nll.nfe for nll in batches)),
    }
    if model.spec.is_table:
        metrics |= _mean(BITS_PER_ROW, bits_per_dim(nats, 1))
        metrics |= _mean(BITS_BEYOND_MARGINALS, bits_per_dim(nats - independent_nats(x, model.spec), 1))
    for part in batches[0].parts:
        values = torch.cat([nll.parts[part] for nll in batches]).double().cpu()
        metrics[f"{BITS_PER_DIM.name}_{part}"] = float(bits_per_dim(values, dims).mean())
    planned = planned_provenance(model.experiment)
    how = {
        "kind": max((nll.kind for nll in batches), key=lambda kind: kind.endswith(PARTIAL)),
        "split": "test",
        "rows": len(x),
        "rows_seed": reference.rows_seed,
    }
    codes = {"data": reference.fingerprint, "levels": model.spec.levels}
    provenance: dict[str, Mapping[str, Any]] = {BITS_PER_DIM.name: {**planned[BITS_PER_DIM.name], **how, **codes}}
    if model.spec.is_table:
        rows = {"data": reference.source_fingerprint or reference.fingerprint}  # in any coding
        provenance[BITS_BEYOND_MARGINALS.name] = {**planned[BITS_BEYOND_MARGINALS.name], **how, **rows}
    return metrics, provenance


def _mean(metric: Metric, values: Tensor) -> dict[str, float]:
    """Return the mean of a metric's values of rows (N,), and its standard error if there are two rows."""
    error = {standard_error_of(metric.name): float(values.std() / math.sqrt(len(values)))} if len(values) > 1 else {}
    return {metric.name: float(values.mean()), **error}


def bits_gap(model: Model, reference: ReferenceData, rows: int, *, device: torch.device) -> dict[str, float]:
    """Return the mean bits per dimension of test rows minus that of training rows, at most ``rows`` of each.

    With its standard error; nothing if a split has less than two rows.
    """
    splits = [reference.train[:rows], reference.test[:rows]]
    if min(map(len, splits)) < 2:
        return {}
    effort = effort_of(model)
    nats = [torch.cat([nll.nats for nll in nll_batches(model, x, SEED, effort=effort, device=device)]) for x in splits]
    gap, error = mean_gap(*(bits_per_dim(one.double().cpu(), model.spec.dims) for one in nats))
    return {BITS_GAP.name: gap, standard_error_of(BITS_GAP.name): error}


def copy_report(model: Model, reference: ReferenceData, *, device: torch.device) -> dict[str, float]:
    """Return the figures on copies of training data, for a model whose evaluation did not measure them."""
    samples, _ = sample(model, COPY_SAMPLES, device=device)
    figures, _ = copy_figures(samples, reference, model.spec)
    return figures | bits_gap(model, reference, COPY_ROWS, device=device)


def sample(model: Model, n: int, *, device: torch.device) -> tuple[Tensor, float]:
    """Return n samples (n, *shape) by the evaluation's sampler, and the seconds per sample."""
    chain, size = model.experiment.chain(model.family), batch_size(model)
    start = time.perf_counter()
    with autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, n, seed=SEED, device=device, batch_size=size)
    return samples, (time.perf_counter() - start) / n


def batch_size(model: Model) -> int:
    """Return the number of samples per batch: 64, or more for tables, whose nets are small."""
    return max(64, min(4096, TABLE_LOGITS // (model.spec.dims * model.spec.levels))) if model.spec.is_table else 64


def distances(
    model: Model, samples: Tensor, reference: ReferenceData, extractor: Extractor
) -> tuple[dict[str, float], dict[str, Mapping[str, Any]]]:
    """Return metrics and provenance of samples (N, C, H, W): Fréchet distance, its floor, precision and recall."""
    features = FeatureSets(
        samples=extractor.features(samples),
        reference=extractor.features(reference.real),
        held_out=extractor.features(reference.held_out),
        neighbours=model.experiment.evaluation.neighbours,
    )
    provenance = {
        **planned_provenance(model.experiment)[FRECHET_DISTANCE.name],
        "extractor": extractor.name,
        "extractor_accuracy": extractor.accuracy,
        "resize": "none",
        "range": "[-1, 1]",
        "data": reference.fingerprint,
        "reference": reference.reference_split,
        "reference_rows": len(reference.real),
        "manifold_rows": min(MANIFOLD_ROWS, len(reference.real)),
        "rows_seed": reference.rows_seed,
        "samples": len(samples),
        "seed": SEED,
    }
    return measured(features), dict.fromkeys(MEASURES, provenance)
