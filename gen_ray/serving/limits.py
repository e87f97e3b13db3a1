"""Limits of one request, known to processes that do not load torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What one request may ask for."""

    n: int = 256
    """Samples; of impute, instances × completions."""
    steps: int = 4000
    work: float = 1e8
    """Samples × network evaluations × scalars of a sample: 64 images of 28 × 28 in 1000 steps are half of it."""
    deadline_seconds: float = 300.0
