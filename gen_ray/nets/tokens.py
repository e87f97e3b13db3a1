"""Networks over symbols: net(x (B, *shape) int64 in {0 … S−1}, t (B,)) -> logits (B, *shape, K), float32.

Shapes: B batch, L positions of an example (C·H·W of an image), F features (the config's ``width``).
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.configuration.base import Config
from gen_ray.nets.attention import heads_divide_width
from gen_ray.nets.embeddings import TimeEmbedding, grid_sinusoids, sinusoids
from gen_ray.nets.layout import CategoricalLayout
from gen_ray.nets.transformer import FinalLayer, TransformerBlock
from gen_ray.nets.unet import UNetConfig


class TokensConfig(Config):
    """Settings of the transformer over symbols: the characters of a text, or an image's pixels in raster order."""

    kinds: ClassVar[frozenset[str]] = frozenset({"image", "tokens"})
    causal: ClassVar[bool] = True

    name: Literal["tokens"] = "tokens"
    width: int = Field(128, ge=16, le=4096, multiple_of=4, description="features per symbol, a multiple of heads")
    depth: int = Field(4, ge=1, le=64, description="transformer blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads")
    neighbours: int = Field(2, ge=1, le=32, description="positions on either side mixed before the first block")

    _heads_divide_width = model_validator(mode="after")(heads_divide_width)

    def build_categorical(self, layout: CategoricalLayout) -> nn.Module:
        """Return the net; a causal net sees only the positions before each position."""
        return TokenNet(self, layout.shape, layout.symbols, layout.levels, causal=layout.causal)


class Neighbours(nn.Module):
    """x plus a convolution of x over n positions on either side, or over the 2n positions before if causal.

    Attention learns slowly which positions are neighbours. On tinyshakespeare, absorbing, 40 CPU-seconds of the default
    text net reached 4.76 bits per character (the entropy of single characters) without this layer and 3.64 with it.
    """

    def __init__(self, width: int, n: int, *, causal: bool) -> None:
        super().__init__()
        self.margins = (2 * n, 0) if causal else (n, n)
        self.mix = nn.Conv1d(width, width, 2 * n + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, F) for x (B, L, F)."""
        return x + self.mix(F.pad(x.mT, self.margins)).mT


class TokenNet(nn.Module):
    """A transformer over symbols, conditioned on time; its logits are 0 when new.

    The input is an embedding of symbols, neighbours and position. A causal net gets the sequence shifted by one
    position, with the additional symbol S as the first.
    """

    def __init__(
        self, config: TokensConfig, shape: tuple[int, ...], symbols: int, levels: int, *, causal: bool
    ) -> None:
        super().__init__()
        self.causal = causal
        self.embed = nn.Embedding(symbols + causal, config.width)
        self.mix = Neighbours(config.width, config.neighbours, causal=causal)
        self.position = nn.Parameter(position_embeddings(shape, config.width))
        self.time = TimeEmbedding(config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.width, causal=causal) for _ in range(config.depth)
        )
        self.tail = FinalLayer(config.width, levels, config.width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, *shape, K) for symbols x (B, *shape) at times t (B,) in [0, 1]."""
        symbols, time = x.flatten(1), self.time(t)
        if self.causal:
            first = torch.full_like(symbols[:, :1], self.embed.num_embeddings - 1)
            symbols = torch.cat([first, symbols[:, :-1]], dim=1)
        h = self.mix(self.embed(symbols)) + self.position
        for block in self.blocks:
            h = block(h, time)
        return self.tail(h, time).float().unflatten(1, x.shape[1:])


def position_embeddings(shape: tuple[int, ...], width: int) -> Tensor:
    """Return position embeddings (L, width): sinusoids of the index, or of channel, row and column for images."""
    if len(shape) != 3:
        return sinusoids(torch.arange(math.prod(shape)), width)
    channel = sinusoids(torch.arange(shape[0]), width)[:, None]
    return (grid_sinusoids(*shape[1:], width) + (channel if shape[0] > 1 else 0)).flatten(0, -2)


class LevelUNetConfig(UNetConfig):
    """Settings of the U-Net over images whose levels are categories."""

    kinds: ClassVar[frozenset[str]] = frozenset({"image"})
    causal: ClassVar[bool] = False

    embedding: int = Field(16, ge=2, le=1024, multiple_of=2, description="features of a level, per pixel and channel")

    def build_categorical(self, layout: CategoricalLayout) -> nn.Module:
        """Return the net. It sees all positions at once, so it cannot be causal."""
        assert not layout.causal
        return LevelUNet(self, layout.shape, layout.symbols, layout.levels)


class LevelUNet(nn.Module):
    """A U-Net on embedded levels: C·E channels in, C·K out. Neighbouring levels start with similar embeddings."""

    def __init__(self, config: LevelUNetConfig, shape: tuple[int, ...], symbols: int, levels: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.embed = nn.Embedding.from_pretrained(
            sinusoids(torch.arange(symbols) * (64 / levels), config.embedding, longest=64.0), freeze=False
        )
        self.out_shape = (channels, levels)
        self.unet = config.build((channels * config.embedding, height, width), channels * levels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, C, H, W, K) for levels x (B, C, H, W) at times t (B,) in [0, 1]."""
        features = self.embed(x).movedim(-1, 2).flatten(1, 2)
        return self.unet(features, t).unflatten(1, self.out_shape).movedim(2, -1)
