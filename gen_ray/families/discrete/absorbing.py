"""The absorbing chain: every symbol becomes [MASK] at a time of its own."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen_ray.configuration.base import named
from gen_ray.dataspec import DataSpec
from gen_ray.families.discrete.orders import MaskingKernel
from gen_ray.families.discrete.process import DEFAULT_STEPS, HYBRID_WEIGHT, ForwardKernel, GriddedConfig, TableFunction
from gen_ray.family import LossTerms, Sampler
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths import discrete_tables as tables
from gen_ray.maths.discrete_schedules import Smooth, on_grid
from gen_ray.maths.noise import strata


class AbsorbingConfig(GriddedConfig):
    """Symbols become [MASK]. loss ``continuous`` needs no grid; ``steps`` is then for ancestral sampling alone."""

    name: Literal["absorbing"] = "absorbing"
    loss: Literal["continuous", "vb", "hybrid"] = "continuous"
    schedule: Annotated[Smooth, named("reciprocal")] = Field(default={"name": "reciprocal"}, validate_default=True)

    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the chain."""
        return AbsorbingKernel(self, spec)


class AbsorbingKernel(MaskingKernel):
    """Every symbol is masked at a time of its own."""

    def __init__(self, config: AbsorbingConfig, spec: DataSpec) -> None:
        """Lay the schedule on the grid."""
        super().__init__(config, spec)
        self.schedule, self.objective = config.schedule, self.OBJECTIVES[config.loss]
        self.alpha_bar = on_grid(config.schedule, config.steps, spec.levels)
        self.ce_weight = config.ce_weight or HYBRID_WEIGHT
        self.gridded = config.loss != "continuous"
        self.kind = "vlb" if self.gridded else "elbo-ct"

    def weigh(self, m: int) -> Tensor:
        """Return what each number of m places weighs in the bound of the T steps, or of continuous time, (m,)."""
        return bounds.count_weights(m, self.alpha_bar if self.gridded else None)

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return the objective that the settings name."""
        return self.objective(self, net, x, rng)

    def _continuous(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return −alpha_bar′/(1 − alpha_bar)·Σ −ln p(x_0|x_t), t ~ U(0, 1) (MD4, arXiv 2406.04329)."""
        t = strata(len(x), rng, x.device).clamp(min=1e-9)
        elbo = self.schedule.rate(t).float() * self._nats(net, x, self.schedule.alpha_bar(t, self.K), rng)
        return LossTerms(total=elbo, parts={"elbo_nats": elbo})

    def _vb(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return T·L_{k−1}, k ~ U{1 … T}: the share of masked places that step k reveals, times their cross-entropy."""
        vlb, _ = self._step(net, x, rng)
        return LossTerms(total=vlb, parts={"vlb_nats": vlb})

    def _hybrid(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return T·L_{k−1} + λ·Σ −ln p(x_0|x_k) (D3PM, eq. 5)."""
        vlb, ce = self._step(net, x, rng)
        return LossTerms(total=vlb + self.ce_weight * ce, parts={"vlb_nats": vlb, "cross_entropy_nats": ce})

    def _step(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        T, alpha_bar = len(self.alpha_bar) - 1, self.alpha_bar.to(x.device)
        k = 1 + (strata(len(x), rng, x.device) * T).long().clamp(max=T - 1)
        ce = self._nats(net, x, alpha_bar[k], rng)
        revealed = (alpha_bar[k - 1] - alpha_bar[k]) / (1 - alpha_bar[k])
        return T * revealed.float() * ce, ce

    def _nats(self, net: nn.Module, x: Tensor, alpha_bar: Tensor, rng: torch.Generator) -> Tensor:
        masked = bounds.like(x, rng) >= bounds.wide(alpha_bar, x)  # x_t ~ q(x_t | x_0)
        return bounds.masked_nats(net, x, masked, self.K)

    OBJECTIVES: ClassVar = {"continuous": _continuous, "vb": _vb, "hybrid": _hybrid}

    def samplers(self) -> dict[str, tuple[Sampler, TableFunction]]:
        """Return the samplers that reveal, and the chain's own."""
        default = min(DEFAULT_STEPS, len(self.alpha_bar) - 1)
        own = Sampler(
            default_steps=default, nfe_per_step=1, summary="Austin et al. 2021, alg. 2: places revealed at random times"
        )
        return super().samplers() | {
            "ancestral": (
                own,
                lambda steps, _: tables.ancestral_unmasking(self.alpha_bar, default if steps is None else steps),
            )
        }
