"""A learned forward process: gamma(t) = −ln SNR as a monotone net, and the module that holds it beside a denoiser.

Kingma et al. 2021, "Variational diffusion models" (VDM), arXiv 2107.00630, section 3.1 and appendix H.

Shapes: B batch, C channels, H height, W width, N times, U hidden units.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Monotone(nn.Module):
    """A strictly rising map of [0, 1] onto itself: f(t) = a·t + Σ_u v_u·sigmoid(w_u·(t − c_u)), scaled to its ends.

    a, v and w are exponentials, so positive for any parameters (appendix H, its first two layers merged into one).
    New, it is close to the identity. Everything is float64: N times cost nothing beside one image.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(()))
        self.log_v = nn.Parameter(torch.full((hidden,), -math.log(2 * hidden)))
        self.log_w = nn.Parameter(torch.full((hidden,), math.log(10)))
        self.c = nn.Parameter(torch.linspace(-0.2, 1.2, hidden))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map and its slope, each (N,) float64, at times t (N,)."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=t.device)
        f, slope = self._unscaled(torch.cat([ends, t.double()]))
        span = f[1] - f[0]
        return (f[2:] - f[0]) / span, slope[2:] / span

    def _unscaled(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and f' at t (N,)."""
        a, v, w = (p.double().exp() for p in (self.log_a, self.log_v, self.log_w))
        s = torch.sigmoid(w * (t[:, None] - self.c.double()))  # (N, U)
        return a * t + s @ v, a + (s * (1 - s)) @ (v * w)


class Gamma(nn.Module):
    """gamma(t) = first + (last − first)·shape(t), first and last learned or not; last > first for any parameters."""

    first: Tensor
    log_span: Tensor

    def __init__(self, hidden: int, first: float, last: float, *, learn_ends: bool) -> None:
        super().__init__()
        self.interior = Monotone(hidden)
        for name, value in (("first", first), ("log_span", math.log(last - first))):
            end = torch.tensor(value, dtype=torch.float32)
            self.register_parameter(name, nn.Parameter(end)) if learn_ends else self.register_buffer(name, end)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return gamma(0) and its rise to gamma(1), float64."""
        return self.first.double(), self.log_span.double().exp()

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return gamma and its slope, each (N,) float64, at times t (N,) in [0, 1]."""
        (first, span), (shape, slope) = self.ends(), self.interior(t)
        return first + span * shape, span * slope

    def by_ends_alone(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return gamma and its slope, whose gradients reach the ends alone, and what teaches the interior; (N,) each.

        The last is ln of the shape's slope where gamma *is* and not when: the time is carried along so that gamma
        stays, t − (shape(t) − [shape(t)])/[slope(t)] with [·] held constant (the implicit function theorem).
        """
        (first, span), (shape, slope) = self.ends(), self.interior(t)
        held, held_slope = shape.detach(), slope.detach()
        crowding = self.interior(t - (shape - held) / held_slope)[1].log()
        return first + span * held, span * held_slope, crowding


class NoisedOutput(NamedTuple):
    """One pass of the whole: x_t and the denoiser's output (B, C', H, W), and gamma, all float64, where it was."""

    x_t: Tensor
    output: Tensor
    gamma: Tensor  # (B,)
    rise: Tensor  # (B,): gamma'(t), or gamma(t) − gamma(before)
    first: Tensor  # (): gamma(0)
    last: Tensor  # (): gamma(1)
    crowding: Tensor  # (B,): what teaches the interior in continuous time


class Diffuser(nn.Module):
    """A denoiser and the forward process it undoes. One forward reaches every parameter: DDP sees no other.

    The denoiser is told where gamma stands between low and high and not the time, so that it does not notice another
    interior (VDM, section 3.2: x̂(z_t, gamma_t)).
    """

    def __init__(self, denoiser: nn.Module, gamma: Gamma, low: float, high: float) -> None:
        super().__init__()
        self.denoiser, self.gamma, self.low, self.high = denoiser, gamma, low, high

    def forward(
        self, x: Tensor, t: Tensor, eps: Tensor | None = None, before: Tensor | None = None
    ) -> Tensor | NoisedOutput:
        """Return the denoiser's output for x_t (B, C, H, W), t (B,) saying where its gamma stands between low and high.

        With eps, x is x_0 and t (B,) a time in [0, 1]: it is noised first and all is returned; before (B,) < t makes
        the rise the one between the two, with gradients everywhere.
        """
        if eps is None:
            output: Tensor = self.denoiser(x, t)
            return output
        gamma, rise, crowding = self._gammas(t, before)
        wide = gamma.view(-1, *[1] * (x.ndim - 1))
        x_t = torch.sigmoid(-wide).sqrt().to(x.dtype) * x + torch.sigmoid(wide).sqrt().to(x.dtype) * eps
        first, span = self.gamma.ends()
        told = ((gamma - self.low) / (self.high - self.low)).to(x.dtype)
        return NoisedOutput(x_t, self.denoiser(x_t, told), gamma, rise, first, first + span, crowding)

    def _gammas(self, t: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if before is None:
            return self.gamma.by_ends_alone(t)
        now, then = self.gamma(torch.cat([t, before]))[0].chunk(2)
        return now, now - then, torch.zeros_like(now)
