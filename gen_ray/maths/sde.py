"""Linear SDEs dx = f(t)·x·dt + g(t)·dw that turn data (t = 0) into noise (t = 1) (Song et al. 2021, arXiv 2011.13456).

Each is a small Config; x_t = alpha(t)·x_0 + sigma(t)·eps. Times t have any shape; results are float64 of that shape.
u = ln(sigma/alpha) = −log_snr/2 increases with t, and du/dt = g²/(2·sigma²), so for every SDE here the likelihood
weighting g²/sigma² is a uniform u. Nothing is computed below t_min, where the score diverges (ibid., appendix C).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError, nearest
from gen_ray.maths.paths import LARGEST_SCALE, Path, end_fault

MOST_STEPS = 100_000


class _Sde(Config):
    """The interface of all SDEs."""

    t_min: float

    @abstractmethod
    def f(self, t: Tensor) -> Tensor:
        """Return the coefficient f of the drift f·x."""

    @abstractmethod
    def g2(self, t: Tensor) -> Tensor:
        """Return the square of the diffusion coefficient."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the scale of x_0 in x_t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the scale of eps in x_t."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """Return the time at which ln(sigma/alpha) is u."""

    @property
    def prior_std(self) -> float:
        """Return the standard deviation of the prior at t = 1."""
        return 1.0

    def _check_ends(self, last: str) -> None:
        """Raise ValueError unless 32-bit floats can hold both ends and the process ends in noise.

        last is the config key that sets the end at t = 1, for the message.
        """
        ends = torch.tensor([self.t_min, 1.0], dtype=torch.float64)
        (first, sigma), alpha = self.sigma(ends).tolist(), float(self.alpha(ends[1]))
        if not first * LARGEST_SCALE >= 1:
            raise ValueError(f"sigma is {first:g} at t_min; 32-bit floats need at least {1 / LARGEST_SCALE:g}")
        if fault := end_fault(alpha, sigma):
            too_small = alpha >= 1 / LARGEST_SCALE and sigma <= LARGEST_SCALE
            raise ValueError(f"{fault}: make {last} {'larger' if too_small else 'smaller'}")

    def u(self, t: Tensor) -> Tensor:
        """Return ln(sigma/alpha)."""
        return self.sigma(t).log() - self.alpha(t).log()

    @property
    def u_range(self) -> tuple[float, float]:
        """Return u at t_min and at 1."""
        low, high = self.u(torch.tensor([self.t_min, 1.0], dtype=torch.float64)).tolist()
        return low, high

    def path(self, steps: int, spacing: str = "uniform") -> Path:
        """Return a path of ``steps`` points from t = 1 to t_min and then the data. Raise UserError as in Process."""
        if not 1 <= steps <= MOST_STEPS:
            raise UserError(f"steps: {steps} is out of range; this model takes 1 … {MOST_STEPS}")
        if spacing not in SPACINGS:
            raise UserError(f"grid: unknown grid '{spacing}'; {nearest(spacing, SPACINGS)}")
        t = SPACINGS[spacing](self, steps)
        return Path(t=t, alpha=self.alpha(t), sigma=self.sigma(t), f=self.f(t), g2=self.g2(t)).to_data()


class _Beta(_Sde):
    """SDEs with alpha = exp(−½∫beta) and a linear beta from beta_min to beta_max."""

    beta_min: float = Field(0.1, gt=0, description="beta(0)")
    beta_max: float = Field(20.0, gt=0, description="beta(1)")
    t_min: float = Field(1e-3, gt=0, lt=1, description="the smallest time: sampling and likelihood end there")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.beta_max <= self.beta_min:
            raise ValueError(f"beta_max must be larger than beta_min, {self.beta_min}")
        self._check_ends("beta_max")
        return self

    def beta(self, t: Tensor) -> Tensor:
        """Return the rate at which the signal's power decays."""
        return self.beta_min + (self.beta_max - self.beta_min) * t.double()

    def integral(self, t: Tensor) -> Tensor:
        """Return ∫_0^t beta = −2·ln alpha."""
        return self.beta_min * t.double() + (self.beta_max - self.beta_min) / 2 * t.double() ** 2

    def inverse_integral(self, total: Tensor) -> Tensor:
        """Return the t at which ∫_0^t beta is total: a root of a quadratic, in a form without cancellation."""
        return 2 * total / (self.beta_min + (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * total).sqrt())

    def f(self, t: Tensor) -> Tensor:
        """Return −beta/2."""
        return -self.beta(t) / 2

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(−½∫beta)."""
        return torch.exp(-self.integral(t) / 2)


class VP(_Beta):
    """Variance preserving: the limit of DDPM's linear schedule (Song et al. 2021, eq. 11 and 33)."""

    name: Literal["vp"] = "vp"

    def g2(self, t: Tensor) -> Tensor:
        """Return beta."""
        return self.beta(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 − alpha²)."""
        return (-torch.expm1(-self.integral(t))).sqrt()

    def time(self, u: Tensor) -> Tensor:
        """Return the time at which ln(sigma/alpha) is u: alpha^−2 = 1 + e^2u."""
        return self.inverse_integral(torch.nn.functional.softplus(2 * u.double(), threshold=50.0))


class SubVP(_Beta):
    """Sub-variance preserving: a variance below VP's at every t (Song et al. 2021, eq. 12 and 29)."""

    name: Literal["subvp"] = "subvp"

    def g2(self, t: Tensor) -> Tensor:
        """Return beta·(1 − alpha⁴)."""
        return self.beta(t) * -torch.expm1(-2 * self.integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Return 1 − alpha²: the standard deviation here, but the variance on VP."""
        return -torch.expm1(-self.integral(t))

    def time(self, u: Tensor) -> Tensor:
        """Return the time at which ln(sigma/alpha) is u: sigma/alpha = 1/alpha − alpha = 2·sinh(−ln alpha)."""
        return self.inverse_integral(2 * torch.asinh(u.double().exp() / 2))


class VE(_Sde):
    """Variance exploding: noise is added, the signal stays (Song et al. 2021, eq. 9 and 30).

    sigma(0) is sigma_min, not 0: the process starts at data with noise of that scale.
    """

    name: Literal["ve"] = "ve"
    sigma_min: float = Field(0.01, gt=0, description="noise at t = 0")
    sigma_max: float = Field(50.0, gt=0, description="noise at t = 1")
    t_min: float = Field(1e-5, ge=0, lt=1, description="the smallest time: sampling and likelihood end there")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max must be larger than sigma_min, {self.sigma_min}")
        self._check_ends("sigma_max")
        return self

    @property
    def prior_std(self) -> float:
        """Return sigma_max."""
        return self.sigma_max

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def f(self, t: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(t, dtype=torch.float64)

    def g2(self, t: Tensor) -> Tensor:
        """Return d(sigma²)/dt."""
        return 2 * self._growth * self.sigma(t) ** 2

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        """Return sigma_min·(sigma_max/sigma_min)^t."""
        return self.sigma_min * torch.exp(self._growth * t.double())

    def time(self, u: Tensor) -> Tensor:
        """Return the time at which ln(sigma) is u."""
        return (u.double() - math.log(self.sigma_min)) / self._growth


def _equal_u(sde: _Sde, steps: int) -> Tensor:
    low, high = sde.u_range
    t = sde.time(torch.linspace(high, low, steps, dtype=torch.float64))
    return t.clamp(sde.t_min, 1)  # rounding may exceed the interval


SPACINGS: Mapping[str, Callable[[_Sde, int], Tensor]] = {
    "uniform": lambda sde, steps: torch.linspace(1, sde.t_min, steps, dtype=torch.float64),
    "log_snr": _equal_u,
}
"""Decreasing times (steps,) from 1 to t_min in equal steps of t or of log_snr (see paths.GRIDS)."""

Sde = Annotated[VP | VE | SubVP, Field(discriminator="name")]
"""Any SDE; in a config file the key ``name`` selects it."""
