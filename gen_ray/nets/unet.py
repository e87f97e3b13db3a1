"""A time-conditioned U-Net (Ho et al. 2020, appendix B; Dhariwal & Nichol 2021) arranged for speed on CPU.

Deviations from the papers follow measurements on CPU: one block per level and direction, with a skip connection from
each block down to the corresponding block up; attention only at the coarsest level; upsampling after a 1×1 convolution;
GroupNorm in groups of 16; channels-last activations, which the net arranges itself. On Fashion-MNIST 12 nets were
compared for 60-90 CPU-seconds and the best two for 200. These two were equal in held-out eps-MSE, and the default is
the larger one. The other (width 16, multipliers (1, 2, 4)) costs half as much per image. Folding pixels into channels
(`patch` 2) was cheaper and worse.

Shapes: B batch, C channels, H height, W width, E time embedding.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError
from gen_ray.nets.activation_checkpointing import Checkpointable
from gen_ray.nets.attention import Attention
from gen_ray.nets.embeddings import TimeEmbedding, zero_module

GROUP = 16
"""Channels per group of GroupNorm: one AVX-512 vector, many times faster in bfloat16 than 4 or 8."""

Multiplier = Annotated[int, Field(ge=1, le=64)]


class UNetConfig(Config):
    """Settings of the U-Net."""

    kinds: ClassVar[frozenset[str]] = frozenset({"image"})

    name: Literal["unet"] = "unet"
    width: int = Field(32, ge=16, le=1024, multiple_of=GROUP, description="channels at the finest level")
    multipliers: tuple[Multiplier, ...] = Field((1, 2, 2), min_length=1, max_length=8, description="times width")
    blocks: int = Field(1, ge=1, le=8, description="residual blocks per level, on the way down and on the way up")
    attention: bool = Field(True, description="self-attention at the coarsest level")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout probability inside residual blocks")
    patch: int = Field(1, ge=1, le=8, description="pixels per side folded into channels before the first convolution")

    def build(self, shape: tuple[int, ...], out_channels: int) -> "UNet":
        """Return net(x (B, C, H, W), t (B,)) -> (B, out_channels, H, W) for images of any size."""
        if len(shape) != 3:
            raise UserError(f"net 'unet' models images (C, H, W), not examples of shape {shape}; use net 'mlp' instead")
        return UNet(self, shape[0], out_channels)


class ResidualBlock(Checkpointable):
    """x + conv(silu(scale·norm(conv(silu(norm(x)))) + shift)), with scale and shift from the time embedding."""

    def __init__(self, inputs: int, outputs: int, time_width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(inputs // GROUP, inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(time_width, 2 * outputs)
        self.norm_out = nn.GroupNorm(outputs // GROUP, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_module(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for x (B, inputs, H, W) and time (B, E)."""
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, dim=1)
        h = self.norm_out(self.conv_in(F.silu(self.norm_in(x))))
        h = F.silu(torch.addcmul(shift, h, 1 + scale))
        return self.shortcut(x) + self.conv_out(self.dropout(h))


class AttentionBlock(nn.Module):
    """x + attention(norm(x)) over all pixels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=max(1, width // 64))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H, W) for x (B, width, H, W)."""
        pixels = self.norm(x.flatten(2).transpose(1, 2))
        return x + self.attention(pixels).transpose(1, 2).unflatten(2, x.shape[2:])


class MidBlock(nn.Module):
    """The block at the bottom of the U-Net: a residual block, then attention if configured."""

    def __init__(self, width: int, time_width: int, config: UNetConfig) -> None:
        super().__init__()
        self.block = ResidualBlock(width, width, time_width, config.dropout)
        self.overview = AttentionBlock(width) if config.attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return (B, width, H, W) for x (B, width, H, W) and time (B, E)."""
        return self.overview(self.block(x, time))


class DownUp(nn.Module):
    """x + upsample(level(downsample(x))), with the next level at half the size; odd H, W are rounded up."""

    def __init__(self, widths: list[int], time_width: int, config: UNetConfig) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1)
        self.level = Level(widths[1:], time_width, config)
        self.grow = nn.Conv2d(widths[1], widths[0], 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return (B, width, H, W) for x (B, width, H, W) and time (B, E)."""
        return x + F.interpolate(self.grow(self.level(self.shrink(x), time)), size=x.shape[2:])


class Level(nn.Module):
    """Blocks down, the coarser levels, blocks up; every block up also gets the output of its partner down."""

    def __init__(self, widths: list[int], time_width: int, config: UNetConfig) -> None:
        super().__init__()
        width = widths[0]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for _ in range(config.blocks):
            self.downs.append(ResidualBlock(width, width, time_width, config.dropout))
            self.ups.append(ResidualBlock(2 * width, width, time_width, config.dropout))
        deeper = len(widths) > 1
        self.below = DownUp(widths, time_width, config) if deeper else MidBlock(width, time_width, config)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return (B, width, H, W) for x (B, width, H, W) and time (B, E)."""
        skips = []
        for block in self.downs:
            x = block(x, time)
            skips.append(x)
        x = self.below(x, time)
        for block in self.ups:
            x = block(torch.cat([x, skips.pop()], dim=1), time)
        return x


class UNet(nn.Module):
    """The U-Net. Predicts 0 when new; returns float32 also under autocast."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        width, time_width = config.width * config.multipliers[0], 4 * config.width
        self.patch = config.patch
        self.time = TimeEmbedding(time_width)
        self.stem = nn.Conv2d(in_channels * config.patch**2, width, 3, padding=1)
        self.levels = Level([config.width * m for m in config.multipliers], time_width, config)
        self.norm = nn.GroupNorm(width // GROUP, width)
        self.head = zero_module(nn.Conv2d(width, out_channels * config.patch**2, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction (B, out_channels, H, W) for x (B, C, H, W) at times t (B,) in [0, 1]."""
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % self.patch, 0, -height % self.patch))
        h = self.stem(F.pixel_unshuffle(padded, self.patch)).contiguous(memory_format=torch.channels_last)
        h = self.head(F.silu(self.norm(self.levels(h, self.time(t)))))
        return F.pixel_shuffle(h, self.patch)[:, :, :height, :width].float()
