"""The update that unmasks the columns of a table: as UnmaskingStepper, at a fraction of the cost."""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from gen_ray.maths.categorical import draw
from gen_ray.maths.chain import Known, State
from gen_ray.maths.discrete_bounds import masked_share
from gen_ray.maths.discrete_steppers import UnmaskingStepper
from gen_ray.maths.discrete_tables import Unmask
from gen_ray.maths.noise import RowNoise


@runtime_checkable
class PredictsColumns(Protocol):
    """A net that predicts single columns from a hidden state that all columns share."""

    def hidden(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the hidden state (B, F) for symbols x (B, D) at times t (B,)."""
        ...

    def column(self, hidden: Tensor, d: int) -> Tensor:
        """Return the logits (B, K_d) of column d."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, D, K) of all columns, as a call of the net does."""
        ...


@dataclass(frozen=True)
class ColumnStepper(UnmaskingStepper):
    """The unmasking of a table's columns, which computes logits only for the columns that a row reveals.

    All draws of a row come from its noise at the start, since a column is revealed once: noise at every tick would take
    longer than the net. State: as UnmaskingStepper, and v (B, D) float64, the uniforms of the draws.
    """

    def start(self, noise: RowNoise, device: torch.device, known: Known | None = None) -> State:
        """Return the initial state; see UnmaskingStepper."""
        u, v = noise.uniform((2, *self.shape), device=device).unbind(1)
        x = torch.full(u.shape, self.K, device=device)
        if known is not None:
            x = torch.where(known.mask.to(device), known.known.to(device, x.dtype), x)
        return {"u": u, "x": x, "v": v}

    def tick(self, net: nn.Module, state: State, rows: Tensor, noise: RowNoise) -> State:
        """Reveal columns by rows (B, 6), columns as in Unmask; x_d ~ p(x_d | all columns revealed before).

        A net that predicts single columns is evaluated only for the rows that reveal one. A row with few missing values
        reveals none in most ticks.
        """
        x, v = state["x"].clone(), state["v"]
        masked = x == self.K
        share = masked_share(masked)
        judged = bool((rows[:, Unmask.confidence] > 0).any())
        by_column = cast(PredictsColumns, net) if isinstance(net, PredictsColumns) and not judged else None
        logits = None if by_column else net(x, share)
        gumbel = noise.gumbel(self.shape, where=rows[:, Unmask.noise] > 0, device=x.device)
        reveal = masked & self._chosen(logits, state, rows.to(x.device), v, gumbel)
        active = reveal.any(1).nonzero().flatten()
        hidden = by_column.hidden(x[active], share[active]) if by_column and len(active) else None
        for d in reveal.any(0).nonzero().flatten().tolist():
            at = reveal[active, d].nonzero().flatten()
            places = active[at]
            if by_column and hidden is not None:
                chosen = by_column.column(hidden[at], d)
            else:
                assert logits is not None
                chosen = logits[places, d]
            x[places, d] = draw(chosen.double().softmax(-1), v[places, d])
        return {**state, "x": x}

    def finish(self, state: State) -> Tensor:
        """Return the codes (B, D), int32."""
        return state["x"].int()
