"""Consecutive parts of a range, so that memory is bounded."""

from collections.abc import Iterator


def chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of consecutive parts of at most size that cover range(total)."""
    for first in range(0, total, size):
        yield first, min(first + size, total)
