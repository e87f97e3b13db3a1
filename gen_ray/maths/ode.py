"""The probability-flow ODE (Song et al. 2021, arXiv 2011.13456, section 4.3) and the density along it.

In z = x/sqrt(alpha² + sigma²) and u = ln(sigma/alpha) the ODEs of VP, VE, sub-VP and DDPM are the same and not stiff:

    dz/du = s·(eps(z, u) − s·z),   s = sigma/sqrt(alpha² + sigma²) = sqrt(sigmoid(2u)),

where eps(z, u) predicts the noise in z = sqrt(1 − s²)·x_0 + s·eps. The solvers are torchdiffeq's.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from gen_ray.configuration.base import Config

Eps = Callable[[Tensor, Tensor], Tensor]
"""(z (B, *shape), u scalar) -> eps (B, *shape)."""
FIRST_STEP = 0.02
"""The first step of the adaptive solver, as a fraction of the interval; later steps are chosen by the error."""
Slope = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


class _Solver(Config):
    """A solver of torchdiffeq."""

    def integrate(self, slope: Slope, y: tuple[Tensor, ...], u0: float, u1: float) -> tuple[Tensor, ...]:
        """Return y at u1, the solution of dy/du = slope(u, y) from y at u0; the first axis of every part of y is B."""
        import torchdiffeq

        times = self.times(u0, u1).to(y[0].device)
        solved: tuple[Tensor, ...] = torchdiffeq.odeint(slope, y, times, **self.settings(u0, u1))
        return tuple(part[-1] for part in solved)

    @abstractmethod
    def times(self, u0: float, u1: float) -> Tensor:
        """Return the u at which torchdiffeq reports the solution (N,), float64."""

    @abstractmethod
    def settings(self, u0: float, u1: float) -> dict[str, Any]:
        """Return torchdiffeq's settings for a solution from u0 to u1."""


class Rk4(_Solver):
    """The fourth-order Runge-Kutta method in equal steps: 4·steps evaluations; rows of a batch are independent."""

    name: Literal["rk4"] = "rk4"
    steps: int = Field(25, ge=1, le=10_000, description="number of equal steps")

    def times(self, u0: float, u1: float) -> Tensor:
        """Return the ends of equal steps (steps+1,)."""
        return torch.linspace(u0, u1, self.steps + 1, dtype=torch.float64)

    def settings(self, u0: float, u1: float) -> dict[str, Any]:
        """Return the method."""
        return {"method": "rk4"}


class Dopri5(_Solver):
    """Dormand and Prince's adaptive method (RK45 in scipy); the number of evaluations depends on net and data.

    The worst row of the batch limits the step size, so a row's result depends on the other rows, up to rtol. The
    network is evaluated only between u0 and u1: the last step ends at u1 (by default torchdiffeq passes it and
    interpolates), and the first step is a fixed fraction of the interval (the usual estimate has no upper bound).
    """

    name: Literal["dopri5"] = "dopri5"
    rtol: float = Field(1e-4, ge=1e-10, le=0.1, description="relative tolerance")
    atol: float = Field(1e-4, ge=1e-10, le=0.1, description="absolute tolerance")

    def times(self, u0: float, u1: float) -> Tensor:
        """Return u0 and u1 (2,)."""
        return torch.tensor([u0, u1], dtype=torch.float64)

    def settings(self, u0: float, u1: float) -> dict[str, Any]:
        """Return method, tolerances and steps; the error of a batch is that of its worst row."""
        end = torch.tensor([u1], dtype=torch.float64)
        options = {"norm": _worst_row, "step_t": end, "first_step": abs(u1 - u0) * FIRST_STEP}
        return {"method": "dopri5", "rtol": self.rtol, "atol": self.atol, "options": options}


def _worst_row(parts: tuple[Tensor, ...]) -> Tensor:
    """Return the largest root mean square over a row of a part."""
    return torch.stack([part.reshape(len(part), -1).square().mean(1).sqrt().max() for part in parts]).max()


Solver = Annotated[Rk4 | Dopri5, Field(discriminator="name")]
"""Any solver; in a config file the key ``name`` selects it."""


class Carried(NamedTuple):
    """The end point z (B, *shape) of the flow and ∫ divergence du along it (B,), float64; nfe evaluations of eps."""

    z: Tensor
    log_volume: Tensor
    nfe: int


@dataclass
class Flow:
    """The flow of a noise predictor; nfe counts its evaluations."""

    eps: Eps
    nfe: int = 0

    def slope(self, z: Tensor, u: Tensor) -> Tensor:
        """Return dz/du (B, *shape) in the dtype of z; the network is evaluated in float32."""
        self.nfe += 1
        s = torch.sigmoid(2 * u).sqrt()
        return s * (self.eps(z.float(), u).to(z.dtype) - s * z)

    def carry(self, solver: Solver, z: Tensor, u0: float, u1: float) -> Tensor:
        """Return z (B, *shape) carried from u0 to u1, float64."""
        return solver.integrate(lambda u, y: (self.slope(y[0], u),), (z.double(),), u0, u1)[0]

    def carry_density(self, solver: Solver, z: Tensor, u0: float, u1: float, probes: Tensor) -> Carried:
        """Return z carried from u0 to u1, and how its density changes (Chen et al. 2018, theorem 1).

        If u1 > u0, ln p(z_u0) = ln p(z_u1) + log_volume.

        The trace of the Jacobian is the mean of v·(J·v) over the probes v (P, B, *shape): Hutchinson's estimator, which
        is unbiased for random signs, and exact if the probes are sqrt(D) times the D unit vectors.
        """
        before = self.nfe

        def slope(u: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                at = y[0].detach().requires_grad_()
                dz = self.slope(at, u)
                products = [torch.autograd.grad(dz, at, v, retain_graph=True)[0] for v in probes]
            traces = [(product * v).flatten(1).sum(1) for product, v in zip(products, probes, strict=True)]
            return dz.detach(), torch.stack(traces).mean(0)

        start = (z.double(), torch.zeros(len(z), dtype=torch.float64, device=z.device))
        out, log_volume = solver.integrate(slope, start, u0, u1)
        return Carried(out, log_volume, self.nfe - before)


def random_signs(z: Tensor, rng: torch.Generator) -> Tensor:
    """Return one probe (1, *z.shape) of random signs (Hutchinson 1990), float64."""
    signs = torch.randint(2, z.shape, generator=rng, device=z.device)
    return (2 * signs - 1).double().unsqueeze(0)


def unit_vectors(z: Tensor, rng: torch.Generator) -> Tensor:
    """Return D probes (D, *z.shape), float64, which give the exact trace; rng is not used."""
    dims = z[0].numel()
    eye = dims**0.5 * torch.eye(dims, dtype=torch.float64, device=z.device)
    return eye.view(dims, 1, *z.shape[1:]).expand(dims, *z.shape)
