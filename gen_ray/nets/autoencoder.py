"""Encoder and decoder of a variational autoencoder.

Shapes: B batch, C channels, H height, W width, Z latent dimensions; P = out_channels parameters of p(x|z): per pixel of
an image, or in total for a row of a table.
"""

import itertools
import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError

LOG_VAR_BOUND = 10.0
"""A posterior log-variance is 10·tanh(raw/10): the identity near 0, always within ±10, and its gradient is not 0."""


class Autoencoder(nn.Module):
    """q(z|x) and p(x|z) in one module; forward uses both, so DDP synchronises both."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x), each (B, Z) float32, for x (B, C, H, W)."""
        mu, raw = self.encoder(x).float().chunk(2, dim=1)
        return mu, LOG_VAR_BOUND * torch.tanh(raw / LOG_VAR_BOUND)

    def decode(self, z: Tensor) -> Tensor:
        """Return the parameters (B, P, *shape[1:]) float32 of p(x|z) for z (B, Z)."""
        return self.decoder(z).float()

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mu, log_var and decode(mu + exp(log_var/2)·eps) for x (B, C, H, W) and eps (B, Z) ~ N(0, I)."""
        mu, log_var = self.encode(x)
        return mu, log_var, self.decode(mu + torch.exp(0.5 * log_var) * eps)


Units = Annotated[int, Field(ge=1, le=65536)]


class MlpAutoencoderConfig(Config):
    """Settings of the multilayer perceptrons of Kingma & Welling (2014), with SiLU as the activation."""

    kinds: ClassVar[frozenset[str]] = frozenset({"image", "table"})

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Units, ...] = Field((400,), min_length=1, description="hidden units per layer, data side first")

    def build(self, shape: tuple[int, ...], latent_dim: int, out_channels: int) -> Autoencoder:
        """Return the autoencoder of examples (B, *shape) with Z = latent_dim and P = out_channels."""
        out_shape = (out_channels, *shape[1:])
        encoder = perceptron((math.prod(shape), *self.hidden, 2 * latent_dim))
        decoder = perceptron((latent_dim, *reversed(self.hidden), math.prod(out_shape)))
        return Autoencoder(nn.Sequential(nn.Flatten(), encoder), nn.Sequential(decoder, nn.Unflatten(1, out_shape)))


class ConvAutoencoderConfig(Config):
    """Settings of the convolutional pair: at least two halvings (rounding up), until at most 7 pixels a side."""

    kinds: ClassVar[frozenset[str]] = frozenset({"image"})

    name: Literal["conv"] = "conv"
    width: int = Field(32, ge=4, le=1024, description="channels after the first halving; each further one doubles them")
    hidden: int = Field(256, ge=4, le=8192, description="units of the layer between the coarsest grid and the latent")

    def build(self, shape: tuple[int, ...], latent_dim: int, out_channels: int) -> Autoencoder:
        """Return the autoencoder of images (C, H, W) = shape with Z = latent_dim and P = out_channels."""
        channels, height, width = _image(shape)
        sizes = halvings(height, width)
        widths = [self.width * 2**i for i in range(len(sizes) - 1)]
        grid = (widths[-1], *sizes[-1])
        head = perceptron((math.prod(grid), self.hidden, 2 * latent_dim))
        foot = perceptron((latent_dim, self.hidden, math.prod(grid)))
        shrinks = [DownBlock(a, b) for a, b in itertools.pairwise([channels, *widths])]
        grows = [UpBlock(b, a, size) for a, b, size in zip([out_channels, *widths], widths, sizes, strict=False)]
        encoder = nn.Sequential(*shrinks, nn.Flatten(), head)
        return Autoencoder(encoder, nn.Sequential(foot, nn.Unflatten(1, grid), *reversed(grows)))


class DownBlock(nn.Module):
    """Downsampling to half the size, rounded up: a strided convolution and a residual one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.refine = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, ⌈H/2⌉, ⌈W/2⌉) for x (B, inputs, H, W)."""
        h = F.silu(self.halve(x).contiguous(memory_format=torch.channels_last))
        return h + F.silu(self.refine(h))


class UpBlock(nn.Module):
    """Upsampling to twice the size, cropped to `size`: the mirror of DownBlock, with depth-to-space."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.refine = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.spread = nn.Conv2d(inputs, 4 * outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, *size) for x (B, inputs, h, w)."""
        h = F.silu(x.contiguous(memory_format=torch.channels_last))
        h = h + F.silu(self.refine(h))
        return F.pixel_shuffle(self.spread(h), 2)[:, :, : self.size[0], : self.size[1]]


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers (B, widths[0]) -> (B, widths[-1]) with SiLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def halvings(height: int, width: int) -> list[tuple[int, int]]:
    """Return the grid sizes from (height, width) down: at least two halvings, and more until both are at most 7."""
    sizes = [(height, width)]
    while len(sizes) < 3 or max(sizes[-1]) > 7:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise UserError(f"net 'conv' models images (C, H, W), not examples of shape {shape}; use net 'mlp' instead")
    return shape
