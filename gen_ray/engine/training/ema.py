"""Averages of the weights, kept as further nets: whoever takes a net can take one of these."""

import copy

import torch
from torch import nn


def copy_for_ema(net: nn.Module) -> nn.Module:
    """Return a copy of net that takes no gradient."""
    return copy.deepcopy(net).requires_grad_(False).eval()


def ema_rate(decay: float, step: int) -> float:
    """Return what an exponential average takes of the weights at a step: 1 − d, where d rises to decay.

    d = (1+step)/(10+step) at first: otherwise the first weights, which are noise, would be remembered for 1/(1−decay)
    steps.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: nn.Module, net: nn.Module, part: float) -> None:
    """Move an average towards net: theta_average <- (1−part)·theta_average + part·theta."""
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), part)
    for mine, theirs in zip(average.buffers(), net.buffers(), strict=True):
        mine.copy_(theirs)
