"""The uniform chain: symbols are replaced at random times by uniformly drawn ones."""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen_ray.configuration.base import named
from gen_ray.dataspec import DataSpec
from gen_ray.families.discrete.process import DEFAULT_STEPS, HYBRID_WEIGHT, ForwardKernel, GriddedConfig
from gen_ray.family import LossTerms, Nll
from gen_ray.maths import discrete_bounds as bounds
from gen_ray.maths import discrete_tables as tables
from gen_ray.maths.discrete_schedules import Survival, on_grid
from gen_ray.maths.discrete_steppers import ResamplingStepper
from gen_ray.maths.noise import stratified_steps
from gen_ray.maths.sampler import Sampler, TableSampler


class UniformConfig(GriddedConfig):
    """The settings of the uniform chain."""

    name: Literal["uniform"] = "uniform"
    loss: Literal["hybrid", "vb"] = Field("hybrid", description="vb: the bound; hybrid: the bound and cross entropy")
    schedule: Annotated[Survival, named("cosine")] = Field(
        default={"name": "cosine"}, validate_default=True, description="the noise schedule"
    )

    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the kernel on data of this spec."""
        return UniformKernel(self, spec)


class UniformKernel(ForwardKernel):
    """The forward kernel that replaces symbols at random times by uniformly drawn ones."""

    def __init__(self, config: UniformConfig, spec: DataSpec) -> None:
        """Bind the settings to the data and evaluate the schedule on the grid."""
        super().__init__(config, spec)
        cardinalities = torch.from_numpy(spec.cardinalities) if spec.is_table else None
        self.symbols = self.K + spec.is_table  # a missing value needs a symbol
        self.stepper = ResamplingStepper(spec.shape, spec.levels, cardinalities)
        alpha_bar = on_grid(config.schedule, config.steps, spec.levels)
        self.steps = bounds.UniformChain(alpha_bar, spec.levels, cardinalities)
        self.ce_weight = (config.ce_weight or HYBRID_WEIGHT) if config.loss == "hybrid" else 0.0

    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return T·L_{k−1} + λ·Σ −ln p(x_0|x_k), (B,) nats, k ~ U{1 … T} (D3PM, eq. 5); λ = 0 gives the bound."""
        T = self.steps.T
        k = stratified_steps(T, len(x), rng, x.device)
        kl, ce = self.steps.step_nats(net, x, k, rng)
        return LossTerms(total=T * kl + self.ce_weight * ce, parts={"vlb_nats": T * kl, "cross_entropy_nats": ce})

    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return the bound of the T steps, (B,) nats, by at most T evaluations."""
        draws = min(effort, self.steps.T)
        cells = self.steps.bound_cells(net, x, rng, draws)
        kind = "vlb" if bool(bounds.observed(x, self.K).all()) else "vlb-partial"
        return Nll(nats=cells.flatten(1).sum(1), kind=kind, nfe=draws, cells=cells)

    def samplers(self) -> dict[str, TableSampler]:
        """Return the ancestral sampler, and one with a corrector before each step."""
        default, alpha_bar = min(DEFAULT_STEPS, self.steps.T), self.steps.alpha_bar
        ancestral = Sampler(default_steps=default, nfe_per_step=1, summary="Austin et al. 2021, alg. 2")
        gibbs = Sampler(
            default_steps=default,
            nfe_per_step=2,
            summary="cf. Zhao et al. 2024: a Gibbs corrector on a share of the positions before each step",
            options={"share": (0.0, 1.0)},
        )
        return {
            "ancestral": TableSampler(ancestral, partial(tables.ancestral_resampling, alpha_bar)),
            "gibbs": TableSampler(gibbs, partial(tables.gibbs_resampling, alpha_bar)),
        }

    def imputers(self) -> dict[str, TableSampler]:
        """Return the samplers, ``gibbs`` first: its corrector makes completions consistent with the known part."""
        return dict(reversed(self.samplers().items()))
