"""What a model is worth: bits per dimension and the distance of its samples from the data, each with provenance."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_ray.engine import frechet
from gen_ray.engine.artifact import Model
from gen_ray.engine.features import Extractor
from gen_ray.engine.generate import generate
from gen_ray.engine.plots import grid
from gen_ray.engine.session import chunks
from gen_ray.engine.step import autocast
from gen_ray.engine.texts import page
from gen_ray.family import Nll
from gen_ray.maths.noise import generator

EFFORT = 100
"""Draws spent on an example unless the evaluation says otherwise."""
ROWS_AT_ONCE = 100
REFERENCE_ROWS = 10_000
MANIFOLD_ROWS = 2_000
SHOWN = 64
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Metrics with units in their names, what each was measured with, pictures uint8 (H, W, 3) and texts."""

    metrics: Mapping[str, float]
    provenance: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, np.ndarray]
    texts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The data a model is held against: stored examples of two splits and how to see them."""

    train: Tensor
    test: Tensor
    fingerprint: str
    against: str
    extractor: Extractor | None

    @property
    def real(self) -> Tensor:
        """Return the examples that samples are compared with."""
        return {"train": self.train, "test": self.test}[self.against][:REFERENCE_ROWS]

    @property
    def held_out(self) -> Tensor:
        """Return the other examples: their distance from ``real`` is what a perfect model would reach."""
        return {"train": self.test, "test": self.train}[self.against][:REFERENCE_ROWS]


def evaluate(model: Model, reference: Reference, *, device: torch.device) -> Report:
    """Measure likelihood on the test split and, where there is an extractor, the samples."""
    metrics, provenance = likelihood(model, reference, device=device)
    wanted = model.experiment.evaluation.samples
    judged = reference.extractor is not None  # else samples are there to be seen, and to be timed
    samples, seconds = sample(model, wanted if judged else min(wanted, SHOWN), device=device)
    metrics["sample/seconds_per_image"] = seconds
    if reference.extractor is not None:
        found, how = distances(model, samples, reference, reference.extractor)
        metrics, provenance = metrics | found, provenance | how
    spec, shown = model.spec, samples[:SHOWN]
    return Report(
        metrics=metrics,
        provenance=provenance,
        pictures={"samples": grid(shown, levels=spec.levels)} if spec.is_image else {},
        texts={"samples": page(shown, spec)} if spec.is_text else {},
    )


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """Return nats (B,) of examples with dims scalars as bits per dimension (B,). The only place that does so."""
    return nats / (dims * math.log(2))


@torch.no_grad()
def score(model: Model, x: Tensor, *, effort: int, device: torch.device) -> Iterator[Nll]:
    """Yield the Nll of batches of x (N, *shape), the noise of each a function of its place alone."""
    for first, end in chunks(len(x), ROWS_AT_ONCE):
        rng = generator(SEED, first, device=device)
        yield model.family.nll(model.net, x[first:end].to(device), rng, effort=effort)


def likelihood(
    model: Model, reference: Reference, *, device: torch.device
) -> tuple[dict[str, float], dict[str, Mapping[str, Any]]]:
    """Return bits per dimension of the test split, its standard error and evaluations, and where they come from."""
    wanted, dims = model.experiment.evaluation, model.spec.dims
    x = reference.test[: wanted.likelihood_rows]
    found = list(score(model, x, effort=wanted.effort or EFFORT, device=device))
    bits = bits_per_dim(torch.cat([nll.nats for nll in found]).double().cpu(), dims)
    metrics = {
        "eval/bits_per_dim": float(bits.mean()),
        "eval/bits_per_dim_standard_error": float(bits.std() / math.sqrt(len(bits))),
        "eval/bits_per_dim_nfe": float(found[0].nfe),
    }
    for part in found[0].parts:
        values = torch.cat([nll.parts[part] for nll in found]).double().cpu()
        metrics[f"eval/bits_per_dim_{part}"] = float(bits_per_dim(values, dims).mean())
    how = {
        "kind": found[0].kind,
        "data": reference.fingerprint,
        "split": "test",
        "rows": len(bits),
        "levels": model.spec.levels,
    }
    return metrics, {"eval/bits_per_dim": how}


def sample(model: Model, n: int, *, device: torch.device) -> tuple[Tensor, float]:
    """Return n samples (n, *shape) by the evaluation's sampler, and the seconds each took."""
    chain = model.experiment.chain(model.family)
    began = time.perf_counter()
    with autocast(model.experiment.training.precision, device):
        samples = generate(model.net, chain, n, seed=SEED, device=device)
    return samples, (time.perf_counter() - began) / n


def distances(
    model: Model, samples: Tensor, reference: Reference, extractor: Extractor
) -> tuple[dict[str, float], dict[str, Mapping[str, Any]]]:
    """Return Fréchet distance with its floor, precision and recall of samples (N, C, H, W)."""
    fake, real, held = (extractor.features(x) for x in (samples, reference.real, reference.held_out))
    k, rows = model.experiment.evaluation.neighbours, MANIFOLD_ROWS
    moments = frechet.Moments.of(real)
    size = min(len(fake), len(held))
    metrics = {
        "eval/frechet_distance": frechet.distance(frechet.Moments.of(fake), moments),
        "eval/frechet_floor": frechet.distance(frechet.Moments.of(held[:size]), moments),
        "eval/frechet_floor_rows": float(size),
        "eval/precision": frechet.coverage(fake[:rows], real[:rows], neighbours=k),
        "eval/recall": frechet.coverage(real[:rows], fake[:rows], neighbours=k),
    }
    how = {
        "extractor": extractor.name,
        "extractor_accuracy": extractor.accuracy,
        "resize": "none",
        "range": "[-1, 1]",
        "data": reference.fingerprint,
        "reference": reference.against,
        "reference_rows": len(real),
        "samples": len(samples),
        "seed": SEED,
        "neighbours": k,
    }
    return metrics, dict.fromkeys(("eval/frechet_distance", "eval/precision", "eval/recall"), how)
