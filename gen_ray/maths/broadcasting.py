"""Shapes of numbers that multiply whole examples."""

from torch import Tensor


def append_dims(values: Tensor, ndim: int) -> Tensor:
    """Return values (B, …) as (B, …, 1, …) of ndim axes, which broadcasts to a tensor of ndim axes."""
    return values.view(*values.shape, *[1] * (ndim - values.ndim))
