"""Distances between two sets of features: Fréchet (Heusel et al. 2017), precision and recall (Kynkäänniemi 2019)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean (F,) and covariance (F, F) of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Return the moments of features (N, F). Raise ValueError for fewer than two rows."""
        if len(features) < 2:
            raise ValueError("a covariance needs at least two rows of features")
        return cls(features.double().mean(0), torch.cov(features.double().T))


def distance(a: Moments, b: Moments) -> float:
    """Return ‖m_a − m_b‖² + tr(C_a + C_b − 2·(C_a C_b)^½), the squared 2-Wasserstein distance of two Gaussians.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^½ C_b C_a^½, which is symmetric.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return max(0.0, float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross))


def manifold_coverage(of: Tensor, by: Tensor, *, neighbours: int) -> float:
    """Return the share of rows of `of` (N, F) that lie in the manifold of `by` (M, F).

    The manifold is the union of balls around the rows of `by`; each ball extends to its k-th nearest other row.
    Precision is manifold_coverage(of=generated, by=real), recall is manifold_coverage(of=real, by=generated).
    """
    k = min(neighbours, len(by) - 1)
    radius = _distances(by, by).kthvalue(k + 1, dim=1).values  # the nearest row is the row itself
    inside = [(_distances(part, by) <= radius).any(1) for part in of.split(1024)]
    return float(torch.cat(inside).float().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the distances (N, M), exactly 0 between equal rows, which a matrix product would not give."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
