"""A residual perceptron: the denoiser for data of a few dimensions."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.configuration.base import Config
from gen_ray.nets.embeddings import TimeEmbedding, zero_module


class MlpConfig(Config):
    """Settings of the residual perceptron."""

    kinds: ClassVar[frozenset[str]] = frozenset({"image", "table"})

    name: Literal["mlp"] = "mlp"
    width: int = Field(256, ge=4, le=8192, multiple_of=2, description="hidden units, even")
    depth: int = Field(3, ge=1, le=64, description="residual blocks")

    def build(self, shape: tuple[int, ...], out_channels: int) -> "Mlp":
        """Return net(x (B, *shape), t (B,)) -> (B, out_channels, *shape[1:])."""
        return Mlp(self, shape, out_channels)


class MlpBlock(nn.Module):
    """h + W2·silu(scale·norm(W1·silu(norm(h))) + shift), with scale and shift from the time embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = zero_module(nn.Linear(width, width))
        self.modulation = nn.Linear(width, 2 * width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """Return the next hidden state (B, width) from h (B, width) and the time embedding (B, width)."""
        scale, shift = self.modulation(time).chunk(2, dim=-1)
        inside = self.norms[1](self.inner(F.silu(self.norms[0](h))))
        return h + self.outer(F.silu(torch.addcmul(shift, inside, 1 + scale)))


class Mlp(nn.Module):
    """The residual perceptron over the flattened example. Predicts 0 when new."""

    def __init__(self, config: MlpConfig, shape: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.out_shape = (out_channels, *shape[1:])
        self.stem = nn.Linear(math.prod(shape), config.width)
        self.time = TimeEmbedding(config.width)
        self.blocks = nn.ModuleList(MlpBlock(config.width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = zero_module(nn.Linear(config.width, math.prod(self.out_shape)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction (B, *out_shape) in float32 for x (B, *shape) at times t (B,) in [0, 1]."""
        time = self.time(t)
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = block(h, time)
        return self.head(F.silu(self.norm(h))).float().unflatten(1, self.out_shape)
