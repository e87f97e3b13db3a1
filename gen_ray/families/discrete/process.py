"""The interface of a forward kernel: its losses, likelihoods and samplers."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gen_ray.configuration.base import Config
from gen_ray.dataspec import DataSpec
from gen_ray.family import LossTerms, Nll
from gen_ray.maths.chain import Stepper
from gen_ray.maths.column_stepper import ColumnStepper
from gen_ray.maths.discrete_steppers import UnmaskingStepper
from gen_ray.maths.sampler import TableSampler
from gen_ray.nets.layout import CategoricalLayout

DEFAULT_STEPS = 100
"""The largest default number of steps of the samplers that follow the time grid."""
HYBRID_WEIGHT = 0.001
"""D3PM's weight λ of the cross-entropy that is added to the bound (eq. 5); 0.01 on text."""


class ForwardKernel(ABC):
    """A forward kernel bound to data: its losses, likelihood and samplers' tables. x is (B, *shape) int64."""

    causal: ClassVar[bool] = False

    def __init__(self, config: Config, spec: DataSpec) -> None:
        """Bind the settings to the data: D, the numbers of levels and symbols, and the stepper."""
        self.D, self.K = spec.dims, spec.levels
        self.symbols = self.K + 1
        stepper = ColumnStepper if spec.is_table else UnmaskingStepper
        self.stepper: Stepper = stepper(spec.shape, spec.levels)

    def layout(self, spec: DataSpec) -> CategoricalLayout:
        """Return what the net has to know of the data."""
        layout = CategoricalLayout(shape=spec.shape, levels=spec.levels, symbols=self.symbols, causal=self.causal)
        if not spec.is_table:
            return layout
        return replace(
            layout,
            cardinalities=torch.from_numpy(spec.cardinalities),
            positions=torch.from_numpy(spec.positions),
            frequencies=torch.from_numpy(spec.frequencies),
            own_weights=torch.from_numpy(spec.single_values),
        )

    @abstractmethod
    def loss(self, net: nn.Module, x: Tensor, rng: torch.Generator) -> LossTerms:
        """Return the training loss (B,)."""

    @abstractmethod
    def nll(self, net: nn.Module, x: Tensor, rng: torch.Generator, effort: int) -> Nll:
        """Return −log p(x) or a bound, (B,) nats, by at most ``effort`` network evaluations."""

    def masked_nll(self, net: nn.Module, x: Tensor, missing: Tensor, rng: torch.Generator, effort: int) -> Nll | None:
        """Return −log p(missing values | the rest) or a bound, (B,) nats, or None if the chain does not have one.

        missing (B, *shape) is True at the missing values of x.
        """
        return None

    def marginals(self, net: nn.Module, x: Tensor, known: Tensor) -> Tensor | None:
        """Return p(x_i | known values) for every position, (B, *shape, K) float64, or None if the chain lacks it."""
        return None

    @abstractmethod
    def samplers(self) -> dict[str, TableSampler]:
        """Return the samplers by name, the default one first."""

    def imputers(self) -> dict[str, TableSampler]:
        """Return the samplers that can keep a known part fixed, the default one first."""
        return self.samplers()


class KernelConfig(Config):
    """The settings of a forward kernel; ``on`` binds them to data."""

    @abstractmethod
    def on(self, spec: DataSpec) -> "ForwardKernel":
        """Return the forward kernel on data of this shape and number of levels."""


class GriddedConfig(KernelConfig):
    """The settings of kernels with a time grid and a choice of losses."""

    loss: str
    steps: int = Field(1000, ge=2, le=100_000, description="T, the number of noise levels")
    ce_weight: float | None = Field(None, gt=0, le=1e6, description="weight of the cross entropy in loss=hybrid")

    @model_validator(mode="after")
    def _effective(self) -> "GriddedConfig":
        if self.ce_weight is not None and self.loss != "hybrid":
            raise ValueError("ce_weight has no effect without loss=hybrid")
        return self
