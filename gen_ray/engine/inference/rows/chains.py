"""Draws of rows in batches, in which the noise of each row is a function of (seed, row)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.generate import run_chain
from gen_ray.family import SupportsMarginals
from gen_ray.maths.chain import Chain, Known
from gen_ray.maths.noise import RowNoise

BATCH_ROWS = 2048
CELLS = 2**26
"""Probabilities of a batch: rows × columns × codes."""
DECODING, CONDITIONS = 2**64 - 1, 2**64 - 2
"""Ticks of the draws of values for codes, and of codes for conditions. Samplers count their ticks from 0."""


def batch_rows(spec: DataSpec) -> int:
    """Return the rows of a batch, so that the probabilities of all codes fit into memory. It affects rounding."""
    return max(1, min(BATCH_ROWS, CELLS // (spec.dims * spec.levels)))


def batches(rows: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most size rows."""
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def noise_of(seed: int, rows: np.ndarray, tick: int = 0) -> RowNoise:
    """Return the noise of rows (n,) of a seed at a tick."""
    return RowNoise(np.full(len(rows), seed, np.uint64), rows, np.full(len(rows), tick, np.uint64))


def draw(
    model: Model, chain: Chain, rows: np.ndarray, seed: int, device: torch.device, codes: np.ndarray | None = None
) -> np.ndarray:
    """Return the samples (n, *shape) that a chain draws with the noise of rows (n,).

    codes (n, D) are kept where they are not missing.
    """
    found = []
    for part in batches(len(rows), batch_rows(model.spec)):
        known = None if codes is None else known_part(codes[part])
        found.append(run_chain(model.net, chain, noise_of(seed, rows[part]), device, known).numpy())
    return np.concatenate(found) if found else np.empty((0, *model.spec.shape), model.spec.storage_dtype)


def known_part(codes: np.ndarray) -> Known:
    """Return the values of codes (n, D) that are not missing as the known part of a chain."""
    x = torch.from_numpy(codes.astype(np.int64))
    return Known(known=x.clamp(min=0), mask=x >= 0)


@torch.inference_mode()
def marginals(model: Model, codes: np.ndarray, device: torch.device) -> Tensor | None:
    """Return p(x_d | known values) (n, D, K), float64, of codes (n, D), -1 where missing; None if the family has none.

    The number of rows is that of a batch.
    """
    if not isinstance(model.family, SupportsMarginals):
        return None
    known = known_part(codes)
    return model.family.marginals(model.net, known.known.to(device), known.mask.to(device))


def has_marginals(model: Model, device: torch.device) -> bool:
    """Return whether the family gives the exact marginals of missing values."""
    return marginals(model, np.full((1, *model.spec.shape), -1), device) is not None


def completions(
    model: Model, chain: Chain, numbers: np.ndarray, seed: int, device: torch.device, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return k completions of rows with codes (n, D), and the uniforms that select their values: (n, k, D).

    Each has the noise of its number, of numbers (n, k).
    """
    shape = (*numbers.shape, model.spec.dims)
    drawn = draw(model, chain, numbers.ravel(), seed, device, np.repeat(codes, numbers.shape[1], axis=0))
    u = decoding_uniforms(numbers.ravel(), seed, model.spec.dims)
    return drawn.astype(np.int32).reshape(shape), u.reshape(shape)


def decoding_uniforms(rows: np.ndarray, seed: int, dims: int) -> np.ndarray:
    """Return the uniforms (n, D) that select the values of the codes of rows (n,)."""
    return noise_of(seed, rows, DECODING).uniform((dims,)).numpy()
