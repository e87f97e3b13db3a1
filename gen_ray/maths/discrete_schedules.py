"""Schedules of categorical diffusion: alpha_bar(t), the probability to survive until t, from 1 to exactly 0.

t in [0, 1], float64; step k of a chain of T steps is at t = k/T. Because alpha_bar ends at 0, the prior is exact,
L_T = 0, and an absorbed example ends as masks only.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError
from gen_ray.maths.categorical import mutual_information

HALVINGS = 80
"""Number of bisections that determine alpha_bar to the last bit."""


class _Survival(Config):
    """The interface of all schedules."""

    @abstractmethod
    def alpha_bar(self, t: Tensor, K: int) -> Tensor:
        """Return alpha_bar at t, float64 of the shape of t, for data of K categories."""


class _Smooth(_Survival):
    """A schedule with a closed-form rate, as continuous time needs."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """Return −alpha_bar′/(1 − alpha_bar) at t in (0, 1]: the weight of the masked cross-entropy (MD4, eq. 4)."""


class Reciprocal(_Smooth):
    """beta_k = 1/(T − k + 1), which is alpha_bar = 1 − t (Sohl-Dickstein et al. 2015; D3PM section 3.1)."""

    name: Literal["reciprocal"] = "reciprocal"

    def alpha_bar(self, t: Tensor, K: int) -> Tensor:
        """Return 1 − t."""
        return 1 - t.double()

    def rate(self, t: Tensor) -> Tensor:
        """Return 1/t."""
        return 1 / t.double()


class CosineSurvival(_Smooth):
    """A cosine of time (not squared): f(t)/f(0), f = cos(π/2·(t + s)/(1 + s)) (D3PM, A.2; Hoogeboom et al. 2021)."""

    name: Literal["cosine"] = "cosine"
    s: float = Field(default=0.008, gt=0, le=1, description="offset at the data")

    def alpha_bar(self, t: Tensor, K: int) -> Tensor:
        """Return f(t)/f(0)."""
        angle, first = self._angles(t)
        return torch.where(t < 1, angle.cos() / math.cos(first), 0.0)

    def rate(self, t: Tensor) -> Tensor:
        """Return −f′/(f(0) − f); the difference of cosines is a product of sines, which does not cancel."""
        angle, first = self._angles(t)
        fallen = 2 * ((angle + first) / 2).sin() * ((angle - first) / 2).sin()
        return angle.sin() * (math.pi / 2 / (1 + self.s)) / fallen

    def _angles(self, t: Tensor) -> tuple[Tensor, float]:
        scale = math.pi / 2 / (1 + self.s)
        return (t.double() + self.s) * scale, self.s * scale


class LinearSurvival(_Smooth):
    """DDPM's linear betas (Ho et al. 2020) in continuous time, 1000·beta, rescaled so that alpha_bar(1) = 0 exactly."""

    name: Literal["linear"] = "linear"
    beta_min: float = Field(default=1e-4, gt=0, lt=1, description="first beta")
    beta_max: float = Field(default=0.02, gt=0, lt=1, description="last beta")

    def alpha_bar(self, t: Tensor, K: int) -> Tensor:
        """Return (e^{−B(t)} − e^{−B(1)}) / (1 − e^{−B(1)}), B the integral of the betas."""
        lost, all_lost = self._lost(t)
        return 1 - lost / all_lost

    def rate(self, t: Tensor) -> Tensor:
        """Return beta(t)·e^{−B(t)} / (1 − e^{−B(t)})."""
        t = t.double()
        lost, _ = self._lost(t)
        return 1000 * (self.beta_min + (self.beta_max - self.beta_min) * t) * (1 - lost) / lost

    def _lost(self, t: Tensor) -> tuple[Tensor, Tensor]:
        now = torch.stack([t.double(), torch.ones_like(t, dtype=torch.float64)])
        area = 1000 * (self.beta_min * now + (self.beta_max - self.beta_min) * now.square() / 2)
        lost = -torch.expm1(-area)
        return lost[0], lost[1]


class MutualInformation(_Survival):
    """A schedule with I(x_0; x_t) falling linearly from H(x_0) to 0 (D3PM, A.7), for the uniform limit.

    marginal: the K frequencies of the data's symbols; by default they are equal. For the absorbing limit the same
    condition gives ``reciprocal``.
    """

    name: Literal["mutual_information"] = "mutual_information"
    marginal: tuple[Annotated[float, Field(ge=0, le=1e18)], ...] | None = Field(
        default=None, min_length=2, description="weights of the levels; null: the same weight for all"
    )

    @model_validator(mode="after")
    def _frequencies(self) -> "MutualInformation":
        if self.marginal and (min(self.marginal) < 0 or sorted(self.marginal)[-2] <= 0):
            raise ValueError("marginal must be frequencies, at least two of them above 0")
        return self

    def alpha_bar(self, t: Tensor, K: int) -> Tensor:
        """Return alpha_bar by bisection. Raise UserError if there are not K frequencies."""
        marginal = torch.tensor(self.marginal or (1.0,) * K, dtype=torch.float64)
        if len(marginal) != K:
            raise UserError(f"schedule.marginal: {len(marginal)} frequencies for data of {K} levels")
        marginal = marginal / marginal.sum()
        low, high = torch.zeros_like(t, dtype=torch.float64), torch.ones_like(t, dtype=torch.float64)
        target = (1 - t.double()) * mutual_information(torch.ones(1, dtype=torch.float64), marginal)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            more = mutual_information(middle, marginal) > target
            low, high = torch.where(more, low, middle), torch.where(more, middle, high)
        return torch.where(t >= 1, 0.0, torch.where(t <= 0, 1.0, high))


Smooth = Annotated[Reciprocal | CosineSurvival | LinearSurvival, Field(discriminator="name")]
"""Schedules for the absorbing limit, in continuous or discrete time."""
Survival = Annotated[Reciprocal | CosineSurvival | LinearSurvival | MutualInformation, Field(discriminator="name")]
"""Schedules for the uniform limit."""


def on_grid(schedule: _Survival, T: int, K: int) -> Tensor:
    """Return alpha_bar (T+1,), float64, at k = 0 … T. Raise UserError if it does not fall strictly from 1 to 0."""
    alpha_bar = schedule.alpha_bar(torch.arange(T + 1, dtype=torch.float64) / T, K)
    if not ((alpha_bar[1:] < alpha_bar[:-1]).all() and alpha_bar[0] == 1 and alpha_bar[-1] == 0):
        raise UserError(f"schedule: alpha_bar must fall strictly from 1 to 0 on {T} steps; these settings do not do so")
    return alpha_bar
