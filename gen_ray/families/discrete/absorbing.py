"""The absorbing chain: every symbol becomes [MASK] at a separate random time."""

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen_ray.configuration.base import named
from gen_ray.dataspec import DataSpec
from gen_ray.families.discrete.orders import MaskingKernel
from gen_ray.families.discrete.process import DEFAULT_STEPS, HYBRID_WEIGHT, ForwardKernel, GriddedConfig
from gen_ray.family import LossTerms
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths import discrete_tables as tables
from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.discrete_schedules import Smooth, on_grid
from gen_ray.maths.noise import stratified_steps, stratified_uniform
from gen_ray.maths.sampler import Sampler, TableSampler


class AbsorbingConfig(GriddedConfig):
    """The settings of the absorbing chain. With loss ``continuous``, only ancestral sampling uses ``steps``."""

    name: Literal["absorbing"] = "absorbing"
    loss: Literal["continuous", "vb", "hybrid"] = Field(
        "continuous", description="continuous: the bound in continuous time; vb: in steps; hybrid: vb and cross entropy"
    )
    schedule: Annotated[Smooth, named("reciprocal")] = Field(
        default={"name": "reciprocal"}, validate_default=True, description="the noise schedule"
    )

    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the kernel on data of this spec."""
        return AbsorbingKernel(self, spec)


class AbsorbingKernel(MaskingKernel):
    """The forward kernel that masks every symbol at a separate random time."""

    def __init__(self, config: AbsorbingConfig, spec: DataSpec) -> None:
        """Bind the settings to the data and evaluate the schedule on the grid."""
        super().__init__(config, spec)
        self.schedule, self.objective = config.schedule, self.OBJECTIVES[config.loss]
        self.alpha_bar = on_grid(config.schedule, config.steps, spec.levels)
        self.ce_weight = config.ce_weight or HYBRID_WEIGHT
        self.gridded = config.loss != "continuous"
        self.kind = "vlb" if self.gridded else "elbo-ct"

    def weigh(self, m: int) -> Tensor:
        """Return the weight (m,) of each number 1 … m of masked positions, for T steps or continuous time."""
        return bounds.count_weights(m, self.alpha_bar if self.gridded else None)

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return the loss (B,), nats, that config.loss selects."""
        return self.objective(self, net, x, rng)

    def _continuous(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return −alpha_bar′/(1 − alpha_bar)·Σ −ln p(x_0|x_t), (B,) nats, t ~ U(0, 1) (MD4, arXiv 2406.04329)."""
        t = stratified_uniform(len(x), rng, x.device).clamp(min=1e-9)
        elbo = self.schedule.rate(t).float() * self._nats(net, x, self.schedule.alpha_bar(t, self.K), rng)
        return LossTerms(total=elbo, parts={"elbo_nats": elbo})

    def _vb(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return T·L_{k−1}, k ~ U{1 … T}: T·(share of masked positions that step k reveals)·(their cross-entropy)."""
        vlb, _ = self._step(net, x, rng)
        return LossTerms(total=vlb, parts={"vlb_nats": vlb})

    def _hybrid(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return T·L_{k−1} + λ·Σ −ln p(x_0|x_k) (D3PM, eq. 5)."""
        vlb, ce = self._step(net, x, rng)
        return LossTerms(total=vlb + self.ce_weight * ce, parts={"vlb_nats": vlb, "cross_entropy_nats": ce})

    def _step(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        T, alpha_bar = len(self.alpha_bar) - 1, self.alpha_bar.to(x.device)
        k = stratified_steps(T, len(x), rng, x.device)
        ce = self._nats(net, x, alpha_bar[k], rng)
        revealed = (alpha_bar[k - 1] - alpha_bar[k]) / (1 - alpha_bar[k])
        return T * revealed.float() * ce, ce

    def _nats(self, net: nn.Module, x: Tensor, alpha_bar: Tensor, rng: torch.Generator) -> Tensor:
        masked = bounds.uniform_like(x, rng) >= append_dims(alpha_bar, x.ndim)  # x_t ~ q(x_t | x_0)
        return bounds.masked_nats(net, x, masked, self.K)

    OBJECTIVES: ClassVar = {"continuous": _continuous, "vb": _vb, "hybrid": _hybrid}

    def samplers(self) -> dict[str, TableSampler]:
        """Return the samplers of MaskingKernel and the ancestral sampler."""
        own = Sampler(
            default_steps=min(DEFAULT_STEPS, len(self.alpha_bar) - 1),
            nfe_per_step=1,
            summary="Austin et al. 2021, alg. 2: positions revealed at random times",
        )
        ancestral = partial(tables.ancestral_unmasking, self.alpha_bar)
        return super().samplers() | {"ancestral": TableSampler(own, ancestral)}
