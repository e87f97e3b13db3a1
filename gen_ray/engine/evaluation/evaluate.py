"""Evaluation of a model: bits per dimension, and the distance of its samples from the data, with provenance."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_ray.engine.evaluation.feature_metrics import MANIFOLD_ROWS, MEASURES, FeatureSets, measured
from gen_ray.engine.evaluation.features import Extractor
from gen_ray.engine.evaluation.provenance import planned_provenance
from gen_ray.engine.evaluation.requirements import unmeasurable_metrics
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.inference.precision import autocast
from gen_ray.engine.inference.score import EFFORT, bits_per_dim, nll_batches
from gen_ray.engine.inference.texts import page
from gen_ray.engine.plots.grids import grid
from gen_ray.metrics import BITS_PER_DIM, FRECHET_DISTANCE, SECONDS_PER_IMAGE, standard_error_of

REFERENCE_ROWS = 10_000
PREVIEW_SAMPLES = 64
"""Number of samples in the picture or page of the report."""
SEED = 0


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


@dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """The data a model is compared with: a seeded choice of two splits' rows, in random order, and an extractor.

    Because of the random order, any prefix of ``train`` or ``test`` is also a random sample of the split.
    """

    train: Tensor
    test: Tensor
    rows_seed: int
    fingerprint: str
    reference_split: str
    """Split that samples are compared with: train or test."""
    extractor: Extractor | None

    @property
    def real(self) -> Tensor:
        """Return the examples (N, *shape) that samples are compared with, at most REFERENCE_ROWS."""
        return {"train": self.train, "test": self.test}[self.reference_split][:REFERENCE_ROWS]

    @property
    def held_out(self) -> Tensor:
        """Return examples (N, *shape) of the other split; their distance from ``real`` is that of a perfect model."""
        return {"train": self.test, "test": self.train}[self.reference_split][:REFERENCE_ROWS]


def evaluate(model: Model, reference: ReferenceData, *, device: torch.device) -> EvaluationReport:
    """Measure the likelihood on the test split and, where there is an extractor, the quality of samples."""
    metrics, provenance = likelihood(model, reference, device=device)
    rows = {"train": len(reference.train), "test": len(reference.test)}
    missing = unmeasurable_metrics(
        model.spec, rows, reference.reference_split, has_extractor=reference.extractor is not None
    )
    sample_count = model.experiment.evaluation.samples
    measurable = FRECHET_DISTANCE.name not in missing  # otherwise samples are only shown and timed
    samples, seconds = sample(model, sample_count if measurable else min(sample_count, PREVIEW_SAMPLES), device=device)
    metrics[SECONDS_PER_IMAGE.name] = seconds
    if measurable and reference.extractor is not None:
        sample_metrics, sample_provenance = distances(model, samples, reference, reference.extractor)
        metrics, provenance = metrics | sample_metrics, provenance | sample_provenance
    spec, preview = model.spec, samples[:PREVIEW_SAMPLES]
    return EvaluationReport(
        metrics=metrics,
        provenance=provenance,
        pictures={"samples": grid(preview, levels=spec.levels)} if spec.is_image else {},
        texts={"samples": page(preview, spec)} if spec.is_text else {},
        unmeasured=tuple(dict.fromkeys(missing.values())),
    )


def likelihood(
    model: Model, reference: ReferenceData, *, device: torch.device
) -> tuple[dict[str, float], dict[str, Mapping[str, Any]]]:
    """Return bits per dimension of the test split, its standard error and evaluations, and their provenance.

    The standard error needs two rows.
    """
    settings, dims = model.experiment.evaluation, model.spec.dims
    x = reference.test[: settings.likelihood_rows]
    batches = list(nll_batches(model, x, SEED, effort=settings.effort or EFFORT, device=device))
    bits = bits_per_dim(torch.cat([nll.nats for nll in batches]).double().cpu(), dims)
    metrics = {
        BITS_PER_DIM.name: float(bits.mean()),
        f"{BITS_PER_DIM.name}_nfe": float(batches[0].nfe),
    }
    if len(bits) > 1:
        metrics[standard_error_of(BITS_PER_DIM.name)] = float(bits.std() / math.sqrt(len(bits)))
    for part in batches[0].parts:
        values = torch.cat([nll.parts[part] for nll in batches]).double().cpu()
        metrics[f"{BITS_PER_DIM.name}_{part}"] = float(bits_per_dim(values, dims).mean())
    provenance = {
        **planned_provenance(model.experiment)[BITS_PER_DIM.name],
        "kind": batches[0].kind,
        "data": reference.fingerprint,
        "split": "test",
        "rows": len(bits),
        "rows_seed": reference.rows_seed,
        "levels": model.spec.levels,
    }
    return metrics, {BITS_PER_DIM.name: provenance}


def sample(model: Model, n: int, *, device: torch.device) -> tuple[Tensor, float]:
    """Return n samples (n, *shape) by the evaluation's sampler, and the seconds per sample."""
    chain = model.experiment.chain(model.family)
    began = time.perf_counter()
    with autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, n, seed=SEED, device=device)
    return samples, (time.perf_counter() - began) / n


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
