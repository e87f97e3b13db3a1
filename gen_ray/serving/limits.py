"""Limits of one request. A separate module, so that it can be imported without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Maximum size and duration of one request."""

    n: int = 256
    """Samples; for impute, instances × completions."""
    steps: int = 4000
    work: float = 1e8
    """Samples × network evaluations × scalars of a sample: 64 images of 28 × 28 in 1000 steps are half of it."""
    deadline_seconds: float = 300.0
