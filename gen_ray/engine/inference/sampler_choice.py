"""A sampler of a model together with its number of steps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler and its number of steps."""

    sampler: str
    steps: int
