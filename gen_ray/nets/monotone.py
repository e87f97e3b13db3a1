"""A learned forward process: gamma(t) = −ln SNR as a monotone net, and the module that combines it with a denoiser.

Kingma et al. 2021, "Variational diffusion models" (VDM), arXiv 2107.00630, section 3.1 and appendix H.

Shapes: B batch, C channels, H height, W width, N times, U hidden units.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Monotone(nn.Module):
    """A strictly increasing map of [0, 1] onto itself: f(t) = a·t + Σ_u v_u·sigmoid(w_u·(t − c_u)), rescaled.

    a, v and w are exponentials and so positive for all parameters (appendix H, its first two layers merged into one).
    A new map is close to the identity. All computation is float64: its cost is negligible compared with one image.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(()))
        self.log_v = nn.Parameter(torch.full((hidden,), -math.log(2 * hidden)))
        self.log_w = nn.Parameter(torch.full((hidden,), math.log(10)))
        self.c = nn.Parameter(torch.linspace(-0.2, 1.2, hidden))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map's value and slope, each (N,) float64, at times t (N,)."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=t.device)
        f, slope = self._unscaled(torch.cat([ends, t.double()]))
        span = f[1] - f[0]
        return (f[2:] - f[0]) / span, slope[2:] / span

    def _unscaled(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and f', each (N,) float64, at t (N,)."""
        a, v, w = (p.double().exp() for p in (self.log_a, self.log_v, self.log_w))
        s = torch.sigmoid(w * (t[:, None] - self.c.double()))  # (N, U)
        return a * t + s @ v, a + (s * (1 - s)) @ (v * w)


class Gamma(nn.Module):
    """gamma(t) = first + (last − first)·shape(t); first and last may be learned; last > first for all parameters."""

    first: Tensor
    log_span: Tensor

    def __init__(self, hidden: int, first: float, last: float, *, learn_ends: bool) -> None:
        super().__init__()
        self.interior = Monotone(hidden)
        for name, value in (("first", first), ("log_span", math.log(last - first))):
            end = torch.tensor(value, dtype=torch.float32)
            self.register_parameter(name, nn.Parameter(end)) if learn_ends else self.register_buffer(name, end)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the scalars gamma(0) and gamma(1) − gamma(0), float64."""
        return self.first.double(), self.log_span.double().exp()

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return gamma and its slope, each (N,) float64, at times t (N,) in [0, 1]."""
        (first, span), (shape, slope) = self.ends(), self.interior(t)
        return first + span * shape, span * slope

    def by_ends_alone(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return gamma and its slope, with gradients only to the ends, and a quantity that trains the interior.

        Each is (N,) float64. The last one is ln of the shape's slope at a fixed value of gamma, not at a fixed time: it
        is evaluated at t − (shape(t) − [shape(t)])/[slope(t)] with [·] held constant (the implicit function theorem).
        """
        (first, span), (shape, slope) = self.ends(), self.interior(t)
        fixed, fixed_slope = shape.detach(), slope.detach()
        log_slope = self.interior(t - (shape - fixed) / fixed_slope)[1].log()
        return first + span * fixed, span * fixed_slope, log_slope


class NoisedOutput(NamedTuple):
    """The result of one training pass: x_t, the denoiser's output (B, C', H, W), and float64 values of gamma."""

    x_t: Tensor
    output: Tensor
    gamma: Tensor  # (B,)
    rise: Tensor  # (B,): gamma'(t), or gamma(t) − gamma(before)
    first: Tensor  # (): gamma(0)
    last: Tensor  # (): gamma(1)
    log_slope: Tensor  # (B,): ln of the slope at fixed gamma, which trains the interior in continuous time


class Diffuser(nn.Module):
    """A denoiser and its learned forward process. One forward call uses every parameter, as DDP requires.

    The denoiser's time input is gamma scaled from [low, high] to [0, 1] and not the time, so it does not depend on
    gamma's interior (VDM, section 3.2: x̂(z_t, gamma_t)).
    """

    def __init__(self, denoiser: nn.Module, gamma: Gamma, low: float, high: float) -> None:
        super().__init__()
        self.denoiser, self.gamma, self.low, self.high = denoiser, gamma, low, high

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        eps: Tensor | None = None,
        before: Tensor | None = None,
        roles: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | NoisedOutput:
        """Return the denoiser's output (B, C', H, W) for x_t (B, C, H, W); t (B,) is gamma scaled to [0, 1].

        With eps (B, C, H, W), x is x_0 and t (B,) a time in [0, 1]: x is noised first, and a NoisedOutput is returned.
        With before (B,) < t, ``rise`` is gamma(t) − gamma(before), and gradients reach all of gamma. With roles, masks
        of noisy and of given features, given ones get no noise and the others are missing: the denoiser's input is the
        features, 0 where missing, followed by both masks.
        """
        if eps is None:
            output: Tensor = self.denoiser(x, t)
            return output
        gamma, rise, log_slope = self._gammas(t, before)
        by_row = gamma.view(-1, *[1] * (x.ndim - 1))
        x_t = torch.sigmoid(-by_row).sqrt().to(x.dtype) * x + torch.sigmoid(by_row).sqrt().to(x.dtype) * eps
        first, span = self.gamma.ends()
        time = ((gamma - self.low) / (self.high - self.low)).to(x.dtype)
        seen = x_t
        if roles is not None:
            noisy, given = roles
            x_t = torch.where(given, x, x_t)
            seen = torch.cat([x_t.masked_fill(~(noisy | given), 0.0), noisy.to(x.dtype), given.to(x.dtype)], dim=1)
        return NoisedOutput(x_t, self.denoiser(seen, time), gamma, rise, first, first + span, log_slope)

    def _gammas(self, t: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if before is None:
            return self.gamma.by_ends_alone(t)
        now, then = self.gamma(torch.cat([t, before]))[0].chunk(2)
        return now, now - then, torch.zeros_like(now)
