"""Copies of training data: the share of samples that are nearer to training rows than to held-out rows.

If a model has learned the distribution and not the rows, training and held-out rows are exchangeable for its samples,
and the share is 1/2 on average, however the data are distributed. Of n copies of training rows, of which a part p is
among the compared ones, the share is about (1 + p)/2.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.chunks import chunks
from gen_ray.tabular.columns import MISSING

MAX_SAMPLES = 5_000
MAX_OPERATIONS = 4e10
"""Largest number of compared scalars: samples x rows x scalars of an example. Fewer samples are compared if needed."""
CHUNK = 2**22
"""Largest number of distances in memory."""
FAR = -10.0
"""Coordinate of a missing value of a table: its distance from every value is the largest possible one."""


@dataclass(frozen=True, kw_only=True)
class NearestShare:
    """The share of samples nearer to training rows, its standard error where 1/2 is true, and the numbers compared."""

    share: float
    standard_error: float
    samples: int
    rows: int


def nearest_share(samples: Tensor, train: Tensor, held_out: Tensor, spec: DataSpec) -> NearestShare:
    """Return the share of samples (N, *shape) whose nearest row is one of train, not one of held_out (M, *shape).

    All are stored data in random order, of which equally many training and held-out rows are used. Distance: for tables
    the sum over columns of the difference of normalised ranks, or 0 and 1 for equal and different categories; else the
    Euclidean distance of the stored values. Where several rows are equally near, each counts by its part. The standard
    error is that of a random assignment of the rows to training and held-out data; it includes that several samples
    may have the same nearest row. Raise ValueError for no row.
    """
    size = min(len(train), len(held_out))
    if not size or not len(samples):
        raise ValueError("copies need at least one sample, one training and one held-out row")
    rows = points(torch.cat([train[:size], held_out[:size]]), spec)
    most = max(1, int(MAX_OPERATIONS / (len(rows) * spec.dims)))
    found = points(samples[: min(MAX_SAMPLES, most)], spec)
    weights = torch.zeros(len(rows), dtype=torch.float64)
    for first, end in chunks(len(found), max(1, CHUNK // len(rows))):
        gaps = table_distances(found[first:end], rows) if spec.is_table else _squared_distances(found[first:end], rows)
        nearest = gaps <= gaps.min(1, keepdim=True).values + 1e-6
        weights += (nearest.double() / nearest.sum(1, keepdim=True)).sum(0)
    return NearestShare(
        share=float(weights[:size].sum() / len(found)),
        standard_error=float(weights.std() * math.sqrt(len(rows)) / (2 * len(found))),
        samples=len(found),
        rows=size,
    )


def points(x: Tensor, spec: DataSpec) -> Tensor:
    """Return stored data (N, *shape) as coordinates (N, D), float64 for images, else float32.

    Ordered columns of tables: ranks in [0, 1]; categories: their code; missing values: FAR.
    """
    if not spec.is_table:
        return x.flatten(1).double()
    codes = x.numpy().astype(np.int64)
    ranks = (spec.positions + 1) / 2
    own = ranks[np.arange(codes.shape[1]), np.maximum(codes, 0)]
    return torch.from_numpy(np.where(codes == MISSING, FAR, np.where(np.isnan(own), codes, own)).astype(np.float32))


def table_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the distances (N, M) of coordinates (N, D) and (M, D): the sum over columns of min(1, |a_d - b_d|)."""
    total, part = a.new_zeros(len(a), len(b)), a.new_empty(len(a), len(b))
    for own, other in zip(a.T.contiguous(), b.T.contiguous(), strict=True):
        torch.sub(own[:, None], other, out=part)
        total += part.abs_().clamp_(max=1)
    return total


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T


def mean_gap(train: Tensor, held_out: Tensor) -> tuple[float, float]:
    """Return the mean of held_out (M,) minus that of train (N,), and its standard error. Raise ValueError for one row.

    For bits of rows this is what the model has learned of its training rows beyond their distribution.
    """
    if min(len(train), len(held_out)) < 2:
        raise ValueError("a gap needs two training and two held-out rows")
    variance = train.double().var() / len(train) + held_out.double().var() / len(held_out)
    return float(held_out.double().mean() - train.double().mean()), math.sqrt(float(variance))
