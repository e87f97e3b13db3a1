"""Rows that satisfy conditions: by known values, by drawing the conditions' columns first, or by rejection."""

from dataclasses import dataclass

import numpy as np
import torch

from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.rows import chains
from gen_ray.engine.inference.rows.conditions import RowConditions
from gen_ray.errors import RunError
from gen_ray.maths.chain import Chain
from gen_ray.maths.noise import seed_at
from gen_ray.tabular.columns import MISSING

MOST_ATTEMPTS, ENOUGH = 2000, 50_000
"""Candidates per row after which a condition is reported as too rare, and those of all rows from which on the share of
accepted ones shows this."""


@dataclass(frozen=True)
class DrawnRows:
    """Codes (n, D) of rows that satisfy conditions, and the number of candidates among which they were found."""

    codes: np.ndarray
    candidates: int


@dataclass(frozen=True, kw_only=True)
class ConditionalDraws:
    """The draws of rows under conditions; row i is a function of (seed, i).

    Known values are kept by the chain. Other conditions are exact in both of these ways. With ``first``, their columns
    (in this order) are drawn before all others from the family's exact marginals, where each code has the weight w of
    its allowed values. A row is accepted with probability Π_j Σ_c p(c | columns before)·w_j(c) over all columns but the
    first one, which makes the draw one from p(columns | conditions). Without ``first``, whole rows are drawn, and
    accepted with probability Π_j w_j(code).
    """

    conditions: RowConditions
    chain: Chain
    seed: int
    first: tuple[int, ...] = ()
    attempts: int | None = None
    """Candidates per row after which a condition is reported as too rare. None: MOST_ATTEMPTS."""

    def run(self, model: Model, rows: np.ndarray, device: torch.device) -> DrawnRows:
        """Return the codes of rows (n,). Raise RunError where too few candidates satisfy the conditions."""
        start = np.full((len(rows), model.spec.dims), MISSING)
        for d, (code, _) in self.conditions.known.items():
            start[:, d] = code
        if self.first:
            found = self._accepted(model, rows, start, device)
            codes = chains.draw(model, self.chain, rows, self.seed, device, found.codes)
            return DrawnRows(codes, found.candidates)
        if self.conditions.allowed:
            return self._accepted(model, rows, start, device)
        return DrawnRows(chains.draw(model, self.chain, rows, self.seed, device, start), len(rows))

    def _accepted(self, model: Model, rows: np.ndarray, start: np.ndarray, device: torch.device) -> DrawnRows:
        """Repeat the draw of the rows that are not yet accepted, with a separate seed for each attempt."""
        codes, waiting, candidates = start.copy(), np.arange(len(rows)), 0
        for attempt in range(self.attempts or MOST_ATTEMPTS):
            seed = seed_at(self.seed, attempt) if attempt else self.seed
            candidates += len(waiting)
            draw = self._draw_first if self.first else self._draw_all
            codes[waiting], accepted = draw(model, rows[waiting], start[waiting], seed, device)
            waiting = waiting[~accepted]
            if not len(waiting):
                return DrawnRows(codes, candidates)
            if candidates >= ENOUGH and (len(rows) - len(waiting)) * MOST_ATTEMPTS < candidates:
                break
        share = (len(rows) - len(waiting)) / candidates
        listed = " and ".join(self.conditions.texts.values())
        raise RunError(f"{listed}: {share:.2g} of the rows satisfy this, too few to find them; use wider conditions")

    def _draw_first(
        self, model: Model, rows: np.ndarray, start: np.ndarray, seed: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (n, D) with codes of the columns ``first``, and which of them are accepted (n,)."""
        codes, accepted = start.copy(), np.ones(len(rows), bool)
        u = chains.noise_of(seed, rows, chains.CONDITIONS).uniform((2, len(self.first))).numpy()
        for j, d in enumerate(self.first):
            weights = self.conditions.allowed[d].weights
            for part in chains.batches(len(rows), chains.batch_rows(model.spec)):
                p = chains.marginals(model, codes[part] if j else start[:1], device)
                assert p is not None
                weighted = p[:, d, : len(weights)].cpu().numpy() * weights
                total = weighted.sum(1)
                accepted[part] &= (u[part, 0, j] < total) if j else (total > 0)
                codes[part, d] = _inverse_cdf(weighted, u[part, 1, j])
        return codes, accepted

    def _draw_all(
        self, model: Model, rows: np.ndarray, start: np.ndarray, seed: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return whole rows (n, D), and which of them are accepted (n,)."""
        known = start if self.conditions.known else None
        codes = chains.draw(model, self.chain, rows, seed, device, known)
        u = chains.noise_of(seed, rows, chains.CONDITIONS).uniform((len(self.conditions.allowed),)).numpy()
        columns = enumerate(self.conditions.allowed.items())
        passed = [u[:, j] < allowed.weights[codes[:, d]] for j, (d, allowed) in columns]
        return codes, np.logical_and.reduce(passed)


def order_of_columns(model: Model, conditions: RowConditions, device: torch.device) -> tuple[int, ...]:
    """Return the columns with several allowed values, the least probable condition first; () without marginals.

    The least probable condition is drawn first, because the draw of the first column is never rejected.
    """
    start = np.full((1, model.spec.dims), MISSING)
    for d, (code, _) in conditions.known.items():
        start[0, d] = code
    p = chains.marginals(model, start, device) if conditions.allowed else None
    if p is None:
        return ()
    shares = {
        d: float(p[0, d, : len(allowed.weights)].cpu().numpy() @ allowed.weights)
        for d, allowed in conditions.allowed.items()
    }
    return tuple(sorted(shares, key=lambda d: shares[d]))


def _inverse_cdf(weights: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return codes (n,) of weights (n, K) or (1, K) by uniforms u (n,); never one with weight 0, unless all are."""
    total = weights.cumsum(1)
    if len(total) == 1:
        codes = np.searchsorted(total[0], u * total[0, -1], side="right")
    else:
        codes = (total <= (u * total[:, -1])[:, None]).sum(1)
    last = weights.shape[1] - 1 - (weights > 0)[:, ::-1].argmax(1)
    return np.minimum(codes, last)
