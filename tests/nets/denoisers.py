"""Small denoisers for the contract tests, optionally with noise added to their zero initialisation."""

import torch
from torch import nn

from gen_ray.nets import DiTConfig, MlpConfig, UNetConfig

TINY_UNET = UNetConfig(width=16, multipliers=(1, 2))
CASES = {
    "unet-odd": (TINY_UNET, (2, 7, 9), 3),
    "unet-patched-odd": (UNetConfig(width=16, multipliers=(1, 2), blocks=2, patch=2), (1, 13, 10), 2),
    "unet-one-pixel": (TINY_UNET, (1, 1, 1), 1),
    "unet-28": (UNetConfig(width=16), (1, 28, 28), 1),
    "unet-no-attention": (UNetConfig(width=16, multipliers=(1, 2), attention=False), (1, 8, 8), 17),
    "dit": (DiTConfig(width=32, depth=2, heads=2, patch=4), (1, 8, 12), 2),
    "mlp-vector": (MlpConfig(width=32, depth=2), (2,), 2),
    "mlp-image": (MlpConfig(width=32, depth=2), (1, 5, 3), 4),
}


def built(case: str, *, awake: bool = True) -> tuple[nn.Module, tuple[int, ...], int]:
    """Return (net, shape, out_channels) of a case; with awake, noise is added to every parameter."""
    config, shape, out_channels = CASES[case]
    torch.manual_seed(0)
    net = config.build(shape, out_channels)
    if awake:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net, shape, out_channels
