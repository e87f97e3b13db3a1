"""The exponential moving average of the weights, kept as a second net: whoever takes a net can take this one."""

import copy

import torch
from torch import nn


def twin(net: nn.Module) -> nn.Module:
    """Return a copy of net that takes no gradient."""
    return copy.deepcopy(net).requires_grad_(False).eval()


@torch.no_grad()
def update(ema: nn.Module, net: nn.Module, *, decay: float, step: int) -> None:
    """Move ema towards net: theta_ema <- d·theta_ema + (1−d)·theta; d rises to decay as (1+step)/(10+step).

    Without the ramp the first weights, which are noise, would be remembered for 1/(1−decay) steps.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), weight)
    for mine, theirs in zip(ema.buffers(), net.buffers(), strict=True):
        mine.copy_(theirs)
