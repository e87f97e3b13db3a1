"""The rule by which a model counts as a copy of its training data. This module does not import torch."""

from collections.abc import Mapping

from gen_ray.metrics import BITS_GAP, BITS_PER_DIM, NEAREST_TRAIN_SHARE, standard_error_of

ERRORS = 2.0
"""Number of standard errors by which a figure must exceed its limit."""
MAX_GAP = 0.1
"""Largest gap, as a share of the bits of held-out rows.

Measured: 0.003 (Adult, 39,000 rows), 0.02 (6 columns, 3,900 rows) and 0.02 (digits, VAE of the demo) for good models;
0.07 for 2,000 rows of Adult without dropout, which the other figure refuses (0.555 ± 0.011 of the samples); 0.5 to 0.9
for models of 100 to 200 rows trained too long.
"""
MEASURED = (NEAREST_TRAIN_SHARE.name, BITS_GAP.name)


def has_copy_figures(metrics: Mapping[str, float]) -> bool:
    """Return whether the figures that the rule needs are among metrics."""
    return all(name in metrics for name in MEASURED)


def copying_reason(metrics: Mapping[str, float]) -> str:
    """Return why a model with these figures counts as a copy of its training data, "" if it does not.

    Figures that are not among metrics are not considered.
    """
    reasons = []
    share, error = _figure(metrics, NEAREST_TRAIN_SHARE.name)
    if share - ERRORS * error > 0.5:
        reasons.append(
            f"{share:.3f} ± {error:.3f} of its samples are nearer to training than to held-out rows "
            "(0.5 without copies)"
        )
    gap, error = _figure(metrics, BITS_GAP.name)
    bits = metrics.get(BITS_PER_DIM.name, 0.0)
    if bits > 0 and gap - ERRORS * error > MAX_GAP * bits:
        reasons.append(
            f"held-out rows take {gap:.3f} ± {error:.3f} bits/dim more than training rows, "
            f"{gap / bits:.0%} of their {bits:.3f} bits/dim (limit {MAX_GAP:.0%})"
        )
    return f"it copies its training data: {'; '.join(reasons)}" if reasons else ""


def _figure(metrics: Mapping[str, float], name: str) -> tuple[float, float]:
    return metrics.get(name, 0.0), metrics.get(standard_error_of(name), 0.0)
