"""Exponential moving averages of the weights, stored as nets so that they can replace a net anywhere."""

import copy

import torch
from torch import nn


def copy_for_ema(net: nn.Module) -> nn.Module:
    """Return a copy of net without gradients, in evaluation mode."""
    return copy.deepcopy(net).requires_grad_(False).eval()


def ema_rate(decay: float, step: int) -> float:
    """Return the weight of the current parameters in an EMA at a step: 1 − d, where d rises to decay.

    At first d = (1+step)/(10+step); otherwise the initial random weights would persist for 1/(1−decay) steps.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: nn.Module, net: nn.Module, rate: float) -> None:
    """Update an average: theta_average <- (1−rate)·theta_average + rate·theta; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), rate)
    for mine, theirs in zip(average.buffers(), net.buffers(), strict=True):
        mine.copy_(theirs)
