"""The discrete diffusion family (Austin et al. 2021, D3PM, arXiv 2107.03006), inverted by predictions of x_0.

From x_t the net predicts p(x_0) at every position given the other positions. Everything else depends on the forward
kernel: ``uniform`` and ``absorbing`` replace symbols at random times, ``random_order`` masks one position after the
other in random order (Hoogeboom et al. 2022, arXiv 2110.02037), and ``order`` masks them from the last to the first,
which gives an autoregressive model.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen_ray.configuration.base import named
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.families.discrete.absorbing import AbsorbingConfig
from gen_ray.families.discrete.orders import OrderConfig, RandomOrderConfig
from gen_ray.families.discrete.uniform import UniformConfig
from gen_ray.family import Family, FamilyConfig, LossTerms, Nll
from gen_ray.maths.chain import Stepper
from gen_ray.maths.sampler import TableSampler
from gen_ray.nets import CategoricalConfig

AnyKernel = Annotated[AbsorbingConfig | UniformConfig | RandomOrderConfig | OrderConfig, Field(discriminator="name")]
"""Any forward kernel; in a config file the key ``name`` selects it."""

NETS = {"image": "'tokens' or 'unet'", "tokens": "'tokens'", "table": "'columns' or 'columns_transformer'"}
"""The nets for each kind of data."""


class DiscreteConfig(FamilyConfig):
    """The settings of a discrete diffusion."""

    name: Literal["discrete"] = "discrete"
    kernel: Annotated[AnyKernel, named("absorbing")] = Field(
        default={"name": "absorbing"}, validate_default=True, description="the forward process"
    )
    net: Annotated[CategoricalConfig, named("tokens")] = Field(
        default={"name": "tokens"}, validate_default=True, description="the network"
    )


class DiscreteDiffusion(Family):
    """Images or texts as categories, corrupted by a forward kernel and restored from predictions of x_0."""

    Config = DiscreteConfig
    config: DiscreteConfig

    def __init__(self, config: DiscreteConfig, spec: DataSpec) -> None:
        """Bind the forward kernel to the data. Raise UserError if the net does not fit the data or the kernel."""
        super().__init__(config, spec)
        if spec.kind not in config.net.kinds:
            raise UserError(
                f"family.net: {config.net.name} does not model {spec.kind}; {spec.name} holds {spec.kind}, "
                f"use net {NETS[spec.kind]}"
            )
        self.process = config.kernel.on(spec)
        if self.process.causal and not config.net.causal:
            raise UserError(
                f"family.net: {config.net.name} sees all positions at once; family.kernel=order needs a transformer"
            )

    def build_net(self) -> nn.Module:
        """Return net(x_t (B, *shape) int64, t (B,)) -> logits of x_0 (B, *shape, K)."""
        return self.config.net.build_categorical(self.process.layout(self.spec))

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, step: int) -> LossTerms:
        """Return the kernel's loss (B,), nats."""
        return self.process.loss(net, self._symbols(x), rng)

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, *, effort: int) -> Nll:
        """Return a bound (B,) in nats, with draws spread evenly over the steps; for ``order`` the exact value.

        Kinds: ``vlb`` for a chain of T steps, ``elbo-ct`` for continuous time (equal to any order), ``ar`` for the
        exact value.
        """
        return self.process.nll(net, self._symbols(x), rng, effort)

    def masked_nll(self, net: nn.Module, x: Tensor, mask: Tensor, rng: torch.Generator, *, effort: int) -> Nll | None:
        """Return the bound (B,) on the missing values given the known ones: ``elbo-ct-masked`` or ``vlb-masked``.

        For ``order`` it is the exact value, ``ar-masked``, if the missing values are the last positions, else None. For
        ``uniform`` it is None.
        """
        return self.process.masked_nll(net, self._symbols(x), ~mask, rng, effort)

    def marginals(self, net: nn.Module, x: Tensor, mask: Tensor) -> Tensor | None:
        """Return p(x_d | known values), (B, *shape, K), by one evaluation; None for ``uniform`` and ``order``."""
        return self.process.marginals(net, self._symbols(x), mask)

    def _symbols(self, x: Tensor) -> Tensor:
        """Return stored data x (B, *shape) as symbols, int64: a missing value becomes [MASK], which is symbol K."""
        x = x.long()
        return torch.where(x < 0, self.spec.levels, x) if self.spec.is_table else x

    @property
    def stepper(self) -> Stepper:
        """Return the stepper of the kernel's tables."""
        return self.process.stepper

    def sampler_tables(self) -> Mapping[str, TableSampler]:
        """Return the kernel's samplers."""
        return self.process.samplers()

    def imputer_tables(self) -> Mapping[str, TableSampler]:
        """Return the kernel's imputers."""
        return self.process.imputers()
