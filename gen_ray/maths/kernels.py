"""The walk along a Gaussian table: one network evaluation, one fused update, for rows in any chains."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen_ray.maths.noise import RowNoise
from gen_ray.maths.tables import Column, apply

Denoise = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(net, x (B,C,H,W), t (B,), alpha (B,1,1,1), sigma (B,1,1,1)) -> (x̂_0, v in [0,1] of a learned variance or None)."""


@dataclass(frozen=True)
class GaussianKernel:
    """x <- a·x + b·x̂_0 + c·x̂_0⁻ + s·exp(r·v)·z for every row by its own coefficients (tables.py)."""

    shape: tuple[int, ...]
    levels: int
    denoise: Denoise

    def start(self, noise: RowNoise, device: torch.device) -> dict[str, Tensor]:
        """Draw x_T ~ N(0, I): {"x": (B, *shape), "x_0": zeros of the same shape}."""
        x = noise.normal(self.shape, device=device)
        return {"x": x, "x_0": torch.zeros_like(x)}

    def tick(self, net: nn.Module, state: dict[str, Tensor], rows: Tensor, noise: RowNoise) -> dict[str, Tensor]:
        """Advance state by one evaluation; rows (B, 8) float64 on the CPU, columns as in tables.Column."""
        x = state["x"]
        noisy = rows[:, Column.s] > 0
        z = noise.normal(self.shape, where=noisy, device=x.device) if noisy.any() else None
        rows = rows.to(x.device, torch.float32)
        wide = rows.view(len(rows), -1, *[1] * len(self.shape))
        x_0, v = self.denoise(net, x, rows[:, Column.t], wide[:, Column.alpha], wide[:, Column.sigma])
        return {"x": apply(rows, x, x_0, state["x_0"], z, v), "x_0": x_0}

    def finish(self, state: dict[str, Tensor]) -> Tensor:
        """Return the nearest stored values (B, *shape), uint8 up to 256 levels, else int32."""
        top = self.levels - 1
        return ((state["x"] + 1) * (top / 2)).round_().clamp_(0, top).to(torch.uint8 if top < 256 else torch.int32)
