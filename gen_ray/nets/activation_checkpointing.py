"""Activation checkpointing: blocks that recompute their inner activations in the backward pass instead of storing them.

Chen et al. 2016, arXiv 1604.06174.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointable(nn.Module):
    """A block of a deep net. If ``checkpointed``, only its inputs are stored for the gradient.

    Dropout draws the same mask when the block is recomputed.
    """

    checkpointed = False

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Return the result of forward."""
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)


def checkpoint_activations(net: nn.Module) -> int:
    """Enable activation checkpointing in all checkpointable blocks of net and return their number."""
    blocks = [module for module in net.modules() if isinstance(module, Checkpointable)]
    for block in blocks:
        block.checkpointed = True
    return len(blocks)
