"""The update of a Gaussian chain: one network evaluation and one fused update per table row, for rows of any chains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen_ray.maths.chain import Known, State
from gen_ray.maths.features import Features, Roles
from gen_ray.maths.noise import RowNoise
from gen_ray.maths.tables import Column, apply, spread
from gen_ray.maths.tables.rows import langevin

Denoise = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor, Roles | None], tuple[Tensor, Tensor | None]]
"""(net, x (B,*shape), t (B,), alpha (B,1,…), sigma (B,1,…), roles) -> (x̂_0, v of a learned variance or None).

v is in [−1, 1]. Given features of x are without noise; roles None: all features are noisy.
"""


@dataclass(frozen=True)
class GaussianStepper:
    """The update x <- a·x + b·x̂_0 + c·x̂_0⁻ + s·exp(r·v)·z, with coefficients per row (tables/rows.py).

    x (B, *shape) are the data's ``features``. prior_std is the standard deviation of x at the start of every chain.
    """

    features: Features
    denoise: Denoise
    prior_std: float = 1.0

    def start(self, noise: RowNoise, device: torch.device, known: Known | None = None) -> State:
        """Return the initial state {"x": x_T (B, *shape), "x_0": zeros}, and "known" (scaled) and "mask" if given."""
        x = self.prior_std * noise.normal(self.features.shape, device=device)
        state = {"x": x, "x_0": torch.zeros_like(x)}
        if known is None:
            return state
        x_0, mask = self.features.read(known.known.to(device)).x, self.features.spread(known.mask.to(device))
        return {**state, "known": x_0, "mask": mask}

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Advance state by one evaluation; rows (B, 12) float64 on the CPU, columns as in tables.Column."""
        x, used = state["x"], rows.any(0).tolist()  # once, on the host: terms that no row uses are not computed
        z = noise.normal(x.shape[1:], where=rows[:, Column.s] > 0, device=x.device) if used[Column.s] else None
        by: Sequence[Tensor] = spread(rows, x)
        roles = self.features.roles_of(state["mask"]) if "mask" in state else None
        seen = x if roles is None else torch.where(roles.given, state["known"], x)
        x_0, v = self.denoise(net, seen, by[Column.t].flatten(), by[Column.alpha], by[Column.sigma], roles)
        if z is not None and used[Column.snr]:
            by = langevin(by, x, x_0)
        x = apply(by, x, x_0, state["x_0"] if used[Column.c] else None, z, v if used[Column.r] else None)
        if roles is not None:
            x = torch.where(roles.given, state["known"], x)
        elif "mask" in state:
            x = self._keep(x, by, state, rows, noise)
        return {**state, "x": x, "x_0": x_0}

    def _keep(self, x: Tensor, by: Sequence[Tensor], state: State, rows: Tensor, noise: RowNoise) -> Tensor:
        """Return x with its known part drawn from q(x_r | x_0) at the row's end r; at the data it is x_0 itself."""
        holding = state["mask"].flatten(1).any(1).cpu()  # some rows of a batch may have no known part
        z = noise.held_normal(x.shape[1:], where=(rows[:, Column.sigma_to] > 0) & holding, device=x.device)
        kept = by[Column.alpha_to] * state["known"] + by[Column.sigma_to] * z
        return torch.where(state["mask"], kept, x)

    def finish(self, state: State) -> Tensor:
        """Return the nearest stored data."""
        return self.features.stored(state["x"])

    def preview(self, state: State) -> Tensor:
        """Return the stored data nearest to the latest x̂_0."""
        return self.features.estimate(state["x_0"])


Solve = Callable[[nn.Module, Tensor, float], Tensor]
"""(net, x (1, *shape) drawn from the prior, rtol) -> x̂_0 (1, *shape): the whole probability-flow ODE."""


@dataclass(frozen=True, kw_only=True)
class FlowStepper(GaussianStepper):
    """A Gaussian stepper that can also solve the flow adaptively: a row with rtol > 0 is a whole chain.

    Such rows are solved one by one, because a step size shared by a batch would make a sample depend on its neighbours.
    """

    solve: Solve

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Advance state by one evaluation, and rows with rtol > 0 to the end of the flow."""
        solved = rows[:, Column.rtol] > 0
        if not solved.any():
            return super().tick(net, state, rows, noise)
        at, out = (~solved).nonzero().flatten(), {key: value.clone() for key, value in state.items()}
        if len(at):
            advanced = super().tick(net, {key: value[at] for key, value in state.items()}, rows[at], noise.select(at))
            for key, value in advanced.items():
                out[key][at] = value
        for i in solved.nonzero().flatten().tolist():
            out["x"][i] = self.solve(net, state["x"][i : i + 1], float(rows[i, Column.rtol]))[0]
        return out
