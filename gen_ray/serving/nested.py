"""Conversion of nested lists to arrays; types, lengths and ranges are checked before any array is created."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen_ray.serving.errors import invalid_request


def integers(value: Any, shapes: Sequence[Sequence[int]], levels: int, field: str) -> np.ndarray:
    """Return nested lists of integers in {0 … levels−1} as an int64 array of one of the shapes.

    A length of −1 matches any length. Raise RequestRefusedError 422.
    """
    if not any(_fits(value, shape) for shape in shapes):
        raise invalid_request(f"{field}: must be nested lists of shape {_spelt(shapes[-1])}")
    flat = _flat(value, len(next(shape for shape in shapes if _fits(value, shape))))
    kinds = set(map(type, flat))
    if not (kinds <= {int} or (levels == 2 and kinds <= {int, bool})) or min(flat) < 0 or max(flat) >= levels:
        allowed = "0 and 1, or only false and true" if levels == 2 else f"whole numbers from 0 to {levels - 1}"
        raise invalid_request(f"{field}: must hold only {allowed}")
    return np.array(value, dtype=np.int64)


def numbers(value: Any, width: int, largest: float, field: str) -> np.ndarray:
    """Return lists of numbers as a float32 array (N, width). Raise RequestRefusedError 422."""
    if not _fits(value, (-1, width)):
        raise invalid_request(f"{field}: must be lists of {width} numbers each")
    flat = _flat(value, 2)
    if not set(map(type, flat)) <= {int, float} or not all(-largest <= number <= largest for number in flat):
        raise invalid_request(f"{field}: must hold only numbers from {-largest:g} to {largest:g}")
    return np.array(value, dtype=np.float32)


def _fits(value: Any, shape: Sequence[int]) -> bool:
    """Return whether value is nested lists of this shape. Stops at the first list of another length."""
    if not shape:
        return not isinstance(value, list)
    if not isinstance(value, list) or not value or len(value) != (len(value) if shape[0] < 0 else shape[0]):
        return False
    return all(_fits(part, shape[1:]) for part in value) if len(shape) > 1 else True


def _flat(value: list[Any], depth: int) -> list[Any]:
    for _ in range(depth - 1):
        value = [item for part in value for item in part]
    return value


def _spelt(shape: Sequence[int]) -> str:
    lengths = ["N" if length < 0 else str(length) for length in shape]
    return f"({', '.join(lengths)}{',' if len(lengths) == 1 else ''})"
