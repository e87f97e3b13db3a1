"""The updates of categorical diffusion, which execute the tables of discrete_tables.py: unmasking and resampling.

Nets are called as in discrete_bounds.py. Draws are float64; the update of a row depends only on that row's noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen_ray.maths.broadcasting import append_dims
from gen_ray.maths.categorical import Corruption, draw
from gen_ray.maths.chain import Known, State
from gen_ray.maths.discrete_bounds import masked_share
from gen_ray.maths.discrete_tables import Resample, Unmask
from gen_ray.maths.levels import stored
from gen_ray.maths.noise import RowNoise


@dataclass(frozen=True)
class UnmaskingStepper:
    """The update from all [MASK] (symbol K) to data. Revealed and known positions do not change.

    State: u (B, *shape) float64, the hitting levels; x (B, *shape) int64, the symbols.
    """

    shape: tuple[int, ...]
    K: int

    def start(self, noise: RowNoise, device: torch.device, known: Known | None = None) -> State:
        """Return the initial state: hitting levels are drawn, and all positions that are not known are masked."""
        u = noise.uniform(self.shape, device=device)
        x = torch.full(u.shape, self.K, device=device)
        if known is not None:
            x = torch.where(known.mask.to(device), known.known.to(device, x.dtype), x)
        return {"u": u, "x": x}

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Reveal positions by rows (B, 6), columns as in Unmask; x_i ~ p(x_i | all positions revealed before)."""
        u, x = state["u"], state["x"]
        masked, fresh = x == self.K, noise.uniform(self.shape, device=x.device)
        gumbel = noise.gumbel(self.shape, where=rows[:, Unmask.noise] > 0, device=x.device)
        logits = net(x, masked_share(masked))
        reveal = masked & self._chosen(logits, state, rows.to(x.device), fresh, gumbel)
        drawn, _ = _categories(logits[reveal], fresh[reveal])
        return {"u": u, "x": x.masked_scatter(reveal, drawn)}

    def _chosen(self, logits: Tensor | None, state: State, rows: Tensor, fresh: Tensor, gumbel: Tensor) -> Tensor:
        """Return a mask (B, *shape) of the positions to reveal.

        fresh (B, *shape) are the uniforms of the draw: a table with confidence ranks positions by the symbols they
        would draw. gumbel (B, *shape) is noise on the ranking. logits may be None for rows without confidence.
        """
        masked = state["x"] == self.K
        column = {name: append_dims(rows[:, name], masked.ndim) for name in Unmask}
        place = torch.arange(math.prod(self.shape), device=masked.device).view(self.shape)
        score = column[Unmask.noise] * gumbel - column[Unmask.level] * state["u"] - column[Unmask.place] * place
        ranked = masked & (column[Unmask.confidence] > 0)
        if ranked.any():
            assert logits is not None, "a ranking by confidence needs logits"
            _, log_p = _categories(logits[ranked], fresh[ranked])
            score = score.masked_scatter(ranked, score[ranked] + log_p)
        count = (rows[:, Unmask.share] * masked.flatten(1).sum(1) - 1e-9).ceil()
        highest = _highest(score.masked_fill(~masked, -math.inf).flatten(1), count)
        return (state["u"] < column[Unmask.survival]) | highest.view(masked.shape)

    def finish(self, state: State) -> Tensor:
        """Return the data (B, *shape), uint8 up to 256 levels, else int32."""
        return stored(state["x"], self.K)

    def preview(self, state: State) -> Tensor:
        """Return the revealed symbols (B, *shape), −1 where masked."""
        return state["x"].masked_fill(state["x"] == self.K, -1)


def _highest(score: Tensor, count: Tensor) -> Tensor:
    """Return a mask (B, N) of the count (B,) highest scores (B, N); of equal ones the first.

    At most one for each row, as when columns are revealed one by one, needs no sorting.
    """
    if bool((count <= 1).all()):
        return torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.argmax(1, keepdim=True), count[:, None] > 0)
    order = score.argsort(stable=True, dim=1, descending=True)
    return order.argsort(1) < count[:, None]


def _categories(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return categories (M,) drawn from logits (M, K) by uniforms u (M,), and their ln p (M,), float64."""
    log_p = logits.double().log_softmax(-1)
    drawn = draw(log_p.exp(), u)
    return drawn, log_p.gather(-1, drawn[:, None])[:, 0]


@dataclass(frozen=True)
class ResamplingStepper:
    """The update from uniform noise to data of K categories, in which every position is redrawn repeatedly.

    State: x (B, *shape) int64; also known and mask of the same shape in imputation. After each row the known part is
    redrawn from q(x_s|x_0) at the level s at which the row ends; at the data it is x_0 itself. With this replacement a
    completion is exact only in the limit of many correctors near the data.
    """

    shape: tuple[int, ...]
    K: int
    cardinalities: Tensor | None = None
    """The numbers of categories (D,) of the columns of a table."""

    @property
    def corruption(self) -> Corruption:
        """Return the corruption of one step."""
        return Corruption.uniform(self.K if self.cardinalities is None else self.cardinalities)

    def start(self, noise: RowNoise, device: torch.device, known: Known | None = None) -> State:
        """Return the initial state: x_T is uniform; as alpha_bar_T = 0, this is also the law of the known part."""
        K = self.K if self.cardinalities is None else self.cardinalities.to(device)
        x = (noise.uniform(self.shape, device=device) * K).long()
        return {"x": x} if known is None else {"x": x, "known": known.known.to(x), "mask": known.mask.to(device)}

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Redraw positions by rows (B, 4), columns as in Resample."""
        x, corruption = state["x"], self.corruption
        rows = rows.to(x.device)
        u = noise.uniform((3, *self.shape), device=x.device)
        a, alpha_bar_s = (append_dims(rows[:, i], x.ndim) for i in (Resample.a, Resample.alpha_bar_s))
        p = net(x, rows[:, Resample.t].float()).double().softmax(-1)
        drawn = draw(corruption.reverse(x, p, a, alpha_bar_s), u[:, 0])
        count = (rows[:, Resample.share] * math.prod(self.shape)).round().clamp(min=1)
        chosen = (u[:, 1].flatten(1).argsort(1).argsort(1) < count[:, None]).view(x.shape)
        x = torch.where(chosen, drawn, x)
        if "mask" in state:
            x = torch.where(state["mask"], corruption.diffuse(state["known"], alpha_bar_s, u[:, 2]), x)
        return {**state, "x": x}

    def finish(self, state: State) -> Tensor:
        """Return the data (B, *shape): codes of a table int32, else uint8 up to 256 levels and int32 above."""
        return stored(state["x"], self.K) if self.cardinalities is None else state["x"].int()

    def preview(self, state: State) -> Tensor:
        """Return the current symbols (B, *shape)."""
        return self.finish(state)
