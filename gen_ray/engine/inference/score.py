"""Scores of instances: their likelihood under a model, with the standard error of the estimate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.chunks import chunks
from gen_ray.engine.inference.rows.cell_bits import conditional_bits
from gen_ray.family import Nll
from gen_ray.maths.noise import generator

EFFORT = 100
"""Default number of draws per example."""
BATCH_ROWS = 100


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """Convert nats (B,) of examples with dims scalars to bits per dimension (B,). All conversions use this function."""
    return nats / (dims * math.log(2))


@dataclass(frozen=True, kw_only=True)
class InstanceScores:
    """Scores of N instances: bits per dimension (N,), its standard error over the draws (N,), kind of bound, nfe.

    ``cells`` (N, D), of tables, are the bits of each cell given all other known cells, or without exact marginals its
    part of the bound, if the family tells them; missing values have 0.
    """

    bits_per_dim: Tensor
    standard_error: Tensor
    kind: str
    nfe: int
    repeats: int
    cells: Tensor | None = None

    @property
    def mean(self) -> float:
        """Return the mean over the instances."""
        return float(self.bits_per_dim.mean())

    @property
    def mean_standard_error(self) -> float:
        """Return the standard error of the mean as an estimate for the data's distribution.

        It includes the variation between instances and between draws.
        """
        n = len(self.bits_per_dim)
        return float(self.bits_per_dim.std() / math.sqrt(n)) if n > 1 else float(self.standard_error.max())


def effort_of(model: Model, effort: int | None = None) -> int:
    """Return the draws per estimate: the given ones, else those of the model's evaluation, else EFFORT."""
    return effort or model.experiment.evaluation.effort or EFFORT


@torch.no_grad()
def nll_batches(model: Model, x: Tensor, *seed: int, effort: int, device: torch.device) -> Iterator[Nll]:
    """Yield the Nll of batches of x (N, *shape); the noise of each is a function of (seed, position in x)."""
    for first, end in chunks(len(x), BATCH_ROWS):
        rng = generator(*seed, first, device=device)
        yield model.family.nll(model.net, x[first:end].to(device), rng, effort=effort)


def score(
    model: Model, x: Tensor, *, effort: int | None = None, repeats: int = 5, seed: int = 0, device: torch.device
) -> InstanceScores:
    """Return the scores of stored data x (N, *shape), each the mean of repeats independent estimates.

    effort None means the evaluation's effort. Every estimate is the family's bound, and so is their mean. The noise is
    a function of (seed, repeat, position in x).
    """
    effort = effort_of(model, effort)
    estimates: list[Tensor] = []
    cells: list[Tensor] = []
    for repeat in range(repeats):
        batches = list(nll_batches(model, x, seed, repeat, effort=effort, device=device))
        parts = [nll.cells for nll in batches if nll.cells is not None]
        cells += [bits_per_dim(torch.cat(parts).double().cpu(), 1)] if parts else []
        estimates.append(bits_per_dim(torch.cat([nll.nats.double().cpu() for nll in batches]), model.spec.dims))
    by_cell = torch.stack(cells).mean(0) if cells else None
    if (given_others := conditional_bits(model, x.numpy(), device)) is not None:
        by_cell = torch.from_numpy(given_others)
    stacked = torch.stack(estimates)
    error = stacked.std(0) / math.sqrt(repeats) if repeats > 1 else torch.full_like(stacked[0], math.nan)
    return InstanceScores(
        bits_per_dim=stacked.mean(0),
        standard_error=error,
        kind=max((nll.kind for nll in batches), key=len),  # with "-partial" if a value is missing in any batch
        nfe=batches[0].nfe,
        repeats=repeats,
        cells=by_cell,
    )
