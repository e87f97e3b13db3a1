"""Embeddings of time and position by sinusoids, always computed in float32."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def sinusoids(position: Tensor, width: int, *, longest: float = 10_000.0) -> Tensor:
    """Return [cos, sin] of position (…,) at width/2 frequencies from 1 down to 1/longest: (…, width), width even.

    Vaswani et al. 2017, section 3.5, cosines first.
    """
    half = width // 2
    powers = torch.arange(half, device=position.device, dtype=torch.float32) / max(half - 1, 1)
    angles = position.float()[..., None] * torch.exp(-math.log(longest) * powers)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_sinusoids(height: int, width: int, channels: int) -> Tensor:
    """Return fixed 2-D position embeddings (height·width, channels), row by row; half the channels encode y, half x."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    halves = [sinusoids(axis.flatten(), channels // 2, longest=100.0) for axis in (y, x)]
    return torch.cat(halves, dim=-1)


class TimeEmbedding(nn.Module):
    """The time embedding: sinusoids of 1000·t and a two-layer perceptron, t (B,) in [0, 1] -> (B, width).

    It runs in float32 even under autocast, because bfloat16 cannot distinguish neighbouring times; the cost is small.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        """Return the embedding (B, width) of times t (B,) in [0, 1]."""
        with torch.autocast(t.device.type, enabled=False):
            return self.mlp(sinusoids(1000.0 * t.float(), self.width))


def zero_module(layer: Layer) -> Layer:
    """Return the layer with weight and bias set to zero, so that the branch that it ends adds 0 at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
