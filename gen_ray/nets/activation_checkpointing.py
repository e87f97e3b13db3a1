"""Blocks whose inner activations may be computed a second time instead of being kept (Chen et al. 2016, 1604.06174)."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointable(nn.Module):
    """A block of a deep net. Where ``recompute``, only its inputs are kept for the gradient; dropout draws the same."""

    recompute = False

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Return what forward returns."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)


def recompute(net: nn.Module) -> int:
    """Have all such blocks of net recompute; return how many there are."""
    blocks = [module for module in net.modules() if isinstance(module, Checkpointable)]
    for block in blocks:
        block.recompute = True
    return len(blocks)
