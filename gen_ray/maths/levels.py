"""Conversion between the levels of stored data and the range [−1, 1] of Gaussian models.

``levels`` is a number, or one for each scalar of an example: a tensor that broadcasts to the data.
"""

import torch
from torch import Tensor

Levels = int | Tensor


def spacing(levels: Levels, like: Tensor) -> Tensor | float:
    """Return the distance 2/(levels−1) of neighbouring levels in [−1, 1], with dtype and device of like if a tensor."""
    return 2 / (levels.to(like) - 1) if isinstance(levels, Tensor) else 2 / (levels - 1)


def scaled(u: Tensor, levels: Levels, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return levels u in {0 … levels−1}, of any shape, as 2·u/(levels−1) − 1 in [−1, 1], the same shape."""
    u = u.to(dtype)
    return u * spacing(levels, u) - 1


def nearest(x: Tensor, levels: Levels) -> Tensor:
    """Return the levels nearest to x, of any shape, as whole numbers in {0 … levels−1} with the dtype of x.

    The inverse of scaled; values outside [−1, 1] are clamped.
    """
    if isinstance(levels, Tensor):
        last = levels.to(x) - 1
        return torch.minimum(((x + 1) * (last / 2)).round_().clamp_(min=0), last)
    return ((x + 1) * ((levels - 1) / 2)).round_().clamp_(0, levels - 1)


def stored(u: Tensor, levels: int) -> Tensor:
    """Return levels u, of any shape, in the dtype of stored data: uint8 up to 256 levels, else int32."""
    return u.to(torch.uint8 if levels <= 256 else torch.int32)
