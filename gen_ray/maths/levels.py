"""Conversion between the levels of stored data and the range [−1, 1] of Gaussian models."""

import torch
from torch import Tensor


def scaled(u: Tensor, levels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return levels u in {0 … levels−1}, of any shape, as 2·u/(levels−1) − 1 in [−1, 1], the same shape."""
    return u.to(dtype) * (2 / (levels - 1)) - 1


def nearest(x: Tensor, levels: int) -> Tensor:
    """Return the levels nearest to x, of any shape, as whole numbers in {0 … levels−1} with the dtype of x.

    The inverse of scaled; values outside [−1, 1] are clamped.
    """
    return ((x + 1) * ((levels - 1) / 2)).round_().clamp_(0, levels - 1)


def stored(u: Tensor, levels: int) -> Tensor:
    """Return levels u, of any shape, in the dtype of stored data: uint8 up to 256 levels, else int32."""
    return u.to(torch.uint8 if levels <= 256 else torch.int32)
