"""Noise schedules: the share of the data that is left at time t.

A schedule is a small Config with two methods: alpha_bar on T steps, and log_snr in continuous time. The rest of the
package computes with DiscreteSchedule: a schedule on T steps, and all quantities derived from alpha_bar.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError
from gen_ray.maths.paths import Path, grid


@dataclass(frozen=True, eq=False)
class DiscreteSchedule:
    """A schedule on T steps, given by alpha_bar (T+1,) float64: k=0 is data (alpha_bar 1), k=T is noise.

    All properties except T are float64 (T+1,), indexed by k. Raise UserError unless alpha_bar falls strictly from 1 and
    stays above 0.
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        """Check the conditions on alpha_bar that the formulas below need."""
        object.__setattr__(self, "alpha_bar", torch.as_tensor(self.alpha_bar, dtype=torch.float64))
        if self.alpha_bar.ndim != 1 or len(self.alpha_bar) < 2 or self.alpha_bar[0] != 1:
            raise UserError("schedule: alpha_bar needs the T+1 values of k = 0 … T, T >= 1, and to be 1 at k = 0")
        falls = (self.alpha_bar[1:] < self.alpha_bar[:-1]) & (self.alpha_bar[1:] > 0)
        if not falls.all():
            k = int(falls.int().argmin()) + 1
            before, value = self.alpha_bar[k - 1 : k + 1].tolist()
            raise UserError(
                f"schedule: alpha_bar must fall strictly and stay above 0, but is {value:g} at k = {k} of {self.T} and "
                f"{before:g} before it; change family.schedule or family.steps"
            )

    @classmethod
    def of(cls, schedule: "Learnable", T: int) -> Self:
        """Return a schedule on T steps. Raise UserError for a T that the schedule does not allow."""
        return cls(schedule.alpha_bar(T))

    @property
    def T(self) -> int:
        """Return the number of steps."""
        return len(self.alpha_bar) - 1

    @cached_property
    def alpha(self) -> Tensor:
        """Return sqrt(alpha_bar), the scale of x_0 in x_k."""
        return self.alpha_bar.sqrt()

    @cached_property
    def sigma(self) -> Tensor:
        """Return sqrt(1 - alpha_bar), the scale of eps in x_k."""
        return (1 - self.alpha_bar).sqrt()

    @cached_property
    def beta(self) -> Tensor:
        """Return the variance of q(x_k | x_{k-1}), with 0 at k = 0."""
        return torch.cat([self.alpha_bar.new_zeros(1), 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Return beta_tilde, the variance of q(x_{k-1} | x_k, x_0), with 0 at k = 0 (Ho et al. 2020, eq. 7)."""
        tail = (1 - self.alpha_bar[:-1]) / (1 - self.alpha_bar[1:]) * self.beta[1:]
        return torch.cat([self.alpha_bar.new_zeros(1), tail])

    @cached_property
    def log_snr(self) -> Tensor:
        """Return ln(alpha_bar / (1 - alpha_bar)), infinite at k = 0."""
        return self.alpha_bar.log() - torch.log1p(-self.alpha_bar)

    def path(self, steps: int, spacing: str = "uniform") -> Path:
        """Return the path of the chain at steps + 1 of its T + 1 times.

        f and g2 are those of the SDE whose rate is constant within each of the T steps: beta(t) = −T·ln(1 − beta_k),
        which is T·beta_k for many steps (Song et al. 2021, appendix B).
        """
        k = grid(self.log_snr, steps, spacing)
        rate = -self.T * torch.log1p(-self.beta[k])
        return Path(t=k.double() / self.T, alpha=self.alpha[k], sigma=self.sigma[k], f=-rate / 2, g2=rate)


class _Schedule(Config):
    """The interface of all schedules."""

    @abstractmethod
    def alpha_bar(self, T: int) -> Tensor:
        """Return alpha_bar (T+1,), float64."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """Return ln(alpha_bar / (1 - alpha_bar)) at times t in (0, 1], float64, the shape of t."""


class Linear(_Schedule):
    """Linear betas (Ho et al. 2020, section 4), specified for T = 1000.

    For another T they are multiplied by 1000/T (Nichol & Dhariwal 2021, "improved DDPM", their code), so that alpha_bar
    at the same t = k/T hardly depends on T. Raise UserError if T is so small that a beta reaches 1.
    """

    name: Literal["linear"] = "linear"
    beta_min: float = Field(default=1e-4, gt=0, lt=1, description="first beta at T = 1000")
    beta_max: float = Field(default=0.02, gt=0, lt=1, description="last beta at T = 1000")

    def alpha_bar(self, T: int) -> Tensor:
        """Return alpha_bar (T+1,), float64: the cumulative product of 1 - beta."""
        steps = _steps(T)
        least = math.floor(1000 * max(self.beta_min, self.beta_max)) + 1
        if steps < least:
            raise UserError(f"schedule: linear with these betas needs at least {least} steps, not {T}")
        return _cumulative(torch.linspace(self.beta_min, self.beta_max, steps, dtype=torch.float64) * (1000 / T))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ln(alpha_bar / (1 - alpha_bar)) in the limit of many steps (Song et al. 2021, eq. 33), t in (0, 1]."""
        t, first, last = t.double(), 1000 * self.beta_min, 1000 * self.beta_max
        return -torch.expm1(first * t + (last - first) * t.square() / 2).log()


class Cosine(_Schedule):
    """A squared cosine of time (Nichol & Dhariwal 2021, eq. 17), with betas limited to beta_clip."""

    name: Literal["cosine"] = "cosine"
    s: float = Field(default=0.008, gt=0, le=1, description="offset that keeps the first beta from being too small")
    beta_clip: float = Field(default=0.999, gt=0, lt=1, description="largest beta")

    def alpha_bar(self, T: int) -> Tensor:
        """Return alpha_bar (T+1,), float64."""
        f = self._angle(torch.arange(_steps(T) + 1, dtype=torch.float64) / T).cos().square()
        return _cumulative((1 - f[1:] / f[:-1]).clamp(max=self.beta_clip))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ln(alpha_bar / (1 - alpha_bar)) without the clip, t in (0, 1)."""
        angle, zero = self._angle(t.double()), self._angle(torch.zeros_like(t, dtype=torch.float64))
        # cos²(zero) − cos²(angle) = sin(angle − zero)·sin(angle + zero), which does not cancel at small t
        return 2 * angle.cos().log() - ((angle - zero).sin() * (angle + zero).sin()).log()

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.s) / (1 + self.s) * (math.pi / 2)


class Sigmoid(_Schedule):
    """A sigmoid of time from start to end, temperature tau, at least 1e-9 (Jabri et al. 2022, algorithm 2)."""

    name: Literal["sigmoid"] = "sigmoid"
    start: float = Field(default=-3.0, ge=-100, le=100, description="argument of the sigmoid at the data")
    end: float = Field(default=3.0, ge=-100, le=100, description="argument at the noise")
    tau: float = Field(default=1.0, ge=1e-3, le=1000, description="temperature")

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end must be larger than start, {self.start}")
        return self

    def alpha_bar(self, T: int) -> Tensor:
        """Return alpha_bar (T+1,), float64."""
        t = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
        return torch.cat([t.new_ones(1), self._gamma(t[1:])])

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ln(alpha_bar / (1 - alpha_bar)), t in (0, 1]."""
        gamma = self._gamma(t.double())
        return gamma.log() - torch.log1p(-gamma)

    def _gamma(self, t: Tensor) -> Tensor:
        first, last = torch.sigmoid(torch.tensor([self.start, self.end], dtype=t.dtype) / self.tau).to(t.device)
        now = torch.sigmoid((t * (self.end - self.start) + self.start) / self.tau)
        return ((last - now) / (last - first)).clamp(min=1e-9)


Schedule = Annotated[Linear | Cosine | Sigmoid, Field(discriminator="name")]
"""Any fixed schedule; in a config file the key ``name`` selects it."""


class Learned(_Schedule):
    """A learned schedule: gamma = −ln SNR is monotone in t and trained with the denoiser.

    Kingma et al. 2021, VDM, arXiv 2107.00630.

    gamma_min and gamma_max are the initial values of its ends, which are fixed if learn_ends is false. Until a net's
    gamma replaces it, the schedule is a straight line. estimate selects the training bound: in ``continuous`` time it
    depends only on the ends, and the interior learns to lower the estimator's variance; in ``discrete`` time ends and
    interior learn from the bound.
    """

    name: Literal["learned"] = "learned"
    gamma_min: float = Field(default=-13.3, ge=-30, le=30, description="initial −ln SNR at the data")
    gamma_max: float = Field(default=5.0, ge=-30, le=30, description="initial −ln SNR at the noise")
    learn_ends: bool = Field(True, description="whether both ends are learned")
    hidden: int = Field(default=64, ge=1, le=4096, description="hidden units of the monotone network")
    estimate: Literal["continuous", "discrete"] = Field(
        "continuous", description="the training bound: in continuous time or in steps"
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.gamma_max <= self.gamma_min:
            raise ValueError(f"gamma_max must be larger than gamma_min, {self.gamma_min}")
        return self

    def alpha_bar(self, T: int) -> Tensor:
        """Return alpha_bar (T+1,), float64, of the straight line."""
        return alpha_bar_of(-self.log_snr(times(_steps(T))))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ln(alpha_bar / (1 - alpha_bar)) of the straight line, t in [0, 1]."""
        return -(self.gamma_min + (self.gamma_max - self.gamma_min) * t.double())


Learnable = Annotated[Linear | Cosine | Sigmoid | Learned, Field(discriminator="name")]
"""Any schedule, fixed or learned, for families that support learned ones."""


def times(T: int) -> Tensor:
    """Return the times (T,), float64, of k = 1 … T on a learned gamma: from 0 to 1, both included.

    The noisiest x is at t = 1 and the cleanest at t = 0, which is k = 1 and still has noise (VDM, section 3).
    """
    return torch.linspace(0, 1, T, dtype=torch.float64)


def alpha_bar_of(gamma: Tensor) -> Tensor:
    """Return alpha_bar (T+1,) of gamma (T,) at k = 1 … T: sigmoid(−gamma), and 1 at k = 0."""
    return torch.cat([gamma.new_ones(1), torch.sigmoid(-gamma)])


def _steps(T: int) -> int:
    if T < 1:
        raise UserError(f"schedule: steps must be at least 1, not {T}")
    return T


def _cumulative(beta: Tensor) -> Tensor:
    """Return alpha_bar (T+1,) of betas (T,)."""
    return torch.cat([beta.new_ones(1), torch.cumprod(1 - beta, 0)])
