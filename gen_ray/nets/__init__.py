"""Networks, which depend on torch.nn only.

A denoiser is net(x (B, *shape), t (B,)) -> (B, out_channels, *shape[1:]), t in [0, 1]. A categorical net is
net(x (B, *shape) int64, t (B,)) -> logits (B, *shape, K).

Every config is a member of one of the three unions below, distinguished by `name`, and has a method `build`
(`build_categorical` for logits). Every net may run under autocast, returns float32 and chooses its memory layout.
"""

from typing import Annotated

from pydantic import Field

from gen_ray.nets.autoencoder import Autoencoder, ConvAutoencoderConfig, MlpAutoencoderConfig
from gen_ray.nets.classifier import Classifier
from gen_ray.nets.columns import ColumnsConfig, ColumnsTransformerConfig
from gen_ray.nets.layout import CategoricalLayout
from gen_ray.nets.mlp import MlpConfig
from gen_ray.nets.monotone import Diffuser, Gamma, NoisedOutput
from gen_ray.nets.tokens import LevelUNetConfig, TokensConfig
from gen_ray.nets.transformer import DiTConfig
from gen_ray.nets.unet import UNetConfig

DenoiserConfig = Annotated[UNetConfig | DiTConfig | MlpConfig, Field(discriminator="name")]
CategoricalConfig = Annotated[
    TokensConfig | LevelUNetConfig | ColumnsConfig | ColumnsTransformerConfig, Field(discriminator="name")
]
AutoencoderConfig = Annotated[MlpAutoencoderConfig | ConvAutoencoderConfig, Field(discriminator="name")]

DENOISERS = {"image": "'unet', 'dit' or 'mlp'", "table": "'mlp'"}
AUTOENCODERS = {"image": "'mlp' or 'conv'", "table": "'mlp'"}
"""The nets for each kind of data, as an error lists them."""

__all__ = [
    "AUTOENCODERS",
    "DENOISERS",
    "Autoencoder",
    "AutoencoderConfig",
    "CategoricalConfig",
    "CategoricalLayout",
    "Classifier",
    "ColumnsConfig",
    "ColumnsTransformerConfig",
    "ConvAutoencoderConfig",
    "DenoiserConfig",
    "DiTConfig",
    "Diffuser",
    "Gamma",
    "LevelUNetConfig",
    "MlpAutoencoderConfig",
    "MlpConfig",
    "NoisedOutput",
    "TokensConfig",
    "UNetConfig",
]
