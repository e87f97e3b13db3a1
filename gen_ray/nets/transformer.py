"""A transformer conditioned on time by adaptive layer norm that starts as the identity (DiT: Peebles & Xie 2023).

`TransformerBlock` and `FinalLayer` need only a sequence and a condition, so a net for tokens adds only an embedding.
Shapes: B batch, C channels, H height, W width in pixels, N sequence length, F features (the config's `width`).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError
from gen_ray.nets.activation_checkpointing import Checkpointable
from gen_ray.nets.attention import Attention, heads_divide_width
from gen_ray.nets.embeddings import TimeEmbedding, grid_sinusoids, zero_module


class DiTConfig(Config):
    """Settings of the diffusion transformer."""

    kinds: ClassVar[frozenset[str]] = frozenset({"image"})

    name: Literal["dit"] = "dit"
    width: int = Field(192, ge=16, le=4096, multiple_of=4, description="features per patch, a multiple of heads")
    depth: int = Field(6, ge=1, le=64, description="transformer blocks")
    heads: int = Field(3, ge=1, le=64, description="attention heads")
    patch: int = Field(4, ge=1, le=32, description="pixels per side of a patch; must divide height and width")

    _heads_divide_width = model_validator(mode="after")(heads_divide_width)

    def build(self, shape: tuple[int, ...], out_channels: int) -> "DiT":
        """Return net(x (B, C, H, W), t (B,)) -> (B, out_channels, H, W)."""
        if len(shape) != 3:
            raise UserError(f"net 'dit' models images (C, H, W), not examples of shape {shape}; use net 'mlp' instead")
        if shape[1] % self.patch or shape[2] % self.patch:
            fits = [p for p in range(1, 33) if shape[1] % p == 0 and shape[2] % p == 0]
            raise UserError(f"net.patch={self.patch} does not divide {shape[1]}×{shape[2]} pixels; use one of {fits}")
        return DiT(self, shape, out_channels)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return (1 + scale)·layer_norm(x) + shift for x (B, N, F), scale and shift (B, 1, F)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class TransformerBlock(Checkpointable):
    """Attention and a perceptron, each scaled, shifted and gated by the condition; the identity when new."""

    def __init__(self, width: int, heads: int, condition_width: int, *, causal: bool = False) -> None:
        super().__init__()
        self.modulation = zero_module(nn.Linear(condition_width, 6 * width))
        self.attention = Attention(width, heads, causal=causal)
        self.attention.out.reset_parameters()  # the gate is already zero: with both zero, neither would ever learn
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the next sequence (B, N, F) from x (B, N, F) and condition (B, E)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attention(modulated(x, scale1, shift1)))
        return torch.addcmul(x, gate2, self.mlp(modulated(x, scale2, shift2)))


class FinalLayer(nn.Module):
    """The final adaptive norm and projection of a transformer; its output is 0 when new."""

    def __init__(self, width: int, outputs: int, condition_width: int) -> None:
        super().__init__()
        self.modulation = zero_module(nn.Linear(condition_width, 2 * width))
        self.head = zero_module(nn.Linear(width, outputs))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (B, N, outputs) for x (B, N, F) and condition (B, E)."""
        return self.head(modulated(x, *self.modulation(condition)[:, None].chunk(2, dim=-1)))


class DiT(nn.Module):
    """The diffusion transformer over image patches; returns float32 also under autocast."""

    def __init__(self, config: DiTConfig, shape: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.patch = config.patch
        self.grid = (height // config.patch, width // config.patch)
        self.stem = nn.Linear(channels * config.patch**2, config.width)
        self.position = nn.Parameter(grid_sinusoids(*self.grid, config.width))
        self.time = TimeEmbedding(config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.width) for _ in range(config.depth)
        )
        self.tail = FinalLayer(config.width, out_channels * config.patch**2, config.width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction (B, out_channels, H, W) for x (B, C, H, W) at times t (B,) in [0, 1]."""
        time = self.time(t)
        h = self.stem(F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            h = block(h, time)
        return F.pixel_shuffle(self.tail(h, time).transpose(1, 2).unflatten(2, self.grid), self.patch).float()
