"""The value, prediction interval and probability of single missing cells, from exact marginals or from draws.

Shapes: M cells of one column, K_d codes of the column, k draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from gen_ray.tabular.columns import BaseColumn, NumberColumn, OrderedColumn

Fill = Literal["median", "mean", "mode", "draw"]
"""How a missing cell of an ordered column is filled; other columns get the most probable value, or a draw."""


@dataclass(frozen=True)
class CellSummary:
    """M missing cells of a column: the values that fill them, and their uncertainty.

    ``low`` and ``high`` (M,) are the ends of the prediction interval of an ordered column. ``probability`` (M,) is that
    of the value of another column.
    """

    values: pa.Array
    low: pa.Array | None = None
    high: pa.Array | None = None
    probability: np.ndarray | None = None


def of_marginals(
    column: BaseColumn, p: np.ndarray, fill: Fill, coverage: float, drawn: tuple[np.ndarray, np.ndarray] | None = None
) -> CellSummary:
    """Return the summary of cells with the probabilities p (M, K_d) of their codes.

    drawn are the codes (M,) and the uniforms (M,) of a completion, for fill ``draw``. Quantiles invert the distribution
    function, which rises linearly over the observed values of a code.
    """
    codes, u = drawn if fill == "draw" and drawn is not None else (p.argmax(1), np.full(len(p), 0.5))
    if not isinstance(column, OrderedColumn):
        return CellSummary(column.decode(codes, u), probability=p[np.arange(len(p)), codes])
    filled = {
        "draw": lambda: column.decode(codes, u),
        "median": lambda: quantile(column, p, 0.5),
        "mean": lambda: _from_numbers(column, p @ np.asarray(column.means)),
        "mode": lambda: column.decode(codes, u),
    }[fill]()
    outside = (1 - coverage) / 2
    return CellSummary(filled, quantile(column, p, outside), quantile(column, p, 1 - outside))


def quantile(column: OrderedColumn, p: np.ndarray, level: float) -> pa.Array:
    """Return the quantiles (M,) of distributions p (M, K_d) over a column's codes."""
    total = p.cumsum(1)
    last = (p > 0).shape[1] - 1 - (p > 0)[:, ::-1].argmax(1)
    codes = np.minimum((total <= level).sum(1), last)
    rows = np.arange(len(p))
    mass = p[rows, codes]
    share = (level - (total[rows, codes] - mass)) / np.maximum(mass, np.finfo(float).tiny)
    return column.decode(codes, share.clip(0, np.nextafter(1, 0)))


def of_draws(column: BaseColumn, codes: np.ndarray, u: np.ndarray, fill: Fill, coverage: float) -> CellSummary:
    """Return the summary of cells from k draws: codes (M, k), and the uniforms u (M, k) that select their values.

    The ends of the interval are order statistics at the plotting positions i/(k+1) (Weibull), so that k draws cover a
    new value with the stated probability, if k is at least 2/(1 − coverage) − 1.
    """
    M, k = codes.shape
    mode = _most_frequent(codes)
    if not isinstance(column, OrderedColumn):
        chosen = codes[:, 0] if fill == "draw" else mode
        values = column.decode(chosen, u[:, 0]) if fill == "draw" else _decoded(column, mode, 0.5)
        return CellSummary(values, probability=(codes == chosen[:, None]).mean(1))
    drawn = column.as_numbers(column.decode(codes.ravel(), u.ravel())).to_numpy().reshape(M, k)
    numbers = np.sort(drawn, axis=1)
    filled = {
        "median": lambda: column.as_values(pa.array(numbers[:, (k - 1) // 2])),
        "mean": lambda: _from_numbers(column, column.number_of(codes).mean(1)),
        "mode": lambda: _decoded(column, mode, 0.5),
        "draw": lambda: column.as_values(pa.array(drawn[:, 0])),
    }[fill]()
    low, high = (_order_statistic(column, numbers, level) for level in ((1 - coverage) / 2, (1 + coverage) / 2))
    return CellSummary(filled, low, high)


def _most_frequent(codes: np.ndarray) -> np.ndarray:
    """Return the most frequent code (M,) of each row of codes (M, k), the smallest one of several."""
    ordered, place = np.sort(codes, axis=1), np.arange(codes.shape[1])
    starts = np.concatenate([np.ones((len(codes), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    run = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)  # draws before this one that equal it
    return ordered[np.arange(len(codes)), run.argmax(1)]


def _order_statistic(column: OrderedColumn, numbers: np.ndarray, level: float) -> pa.Array:
    """Return the quantile at level of sorted numbers (M, k); whole numbers are rounded outwards."""
    if isinstance(column, NumberColumn):
        return column.as_values(pa.array(np.quantile(numbers, level, axis=1, method="weibull")))
    k = numbers.shape[1]
    position = (k + 1) * level - 1
    index = int(np.clip(np.floor(position) if level < 0.5 else np.ceil(position), 0, k - 1))
    return column.as_values(pa.array(numbers[:, index]))


def _decoded(column: BaseColumn, codes: np.ndarray, u: float) -> pa.Array:
    return column.decode(codes, np.full(len(codes), u))


def _from_numbers(column: OrderedColumn, numbers: np.ndarray) -> pa.Array:
    """Return float64 numbers (M,) as values; rounded where the column has whole numbers or times.

    They are means of a column's values. Rounding must not make them exceed these, nor the range of int64.
    """
    low, high = column.starts[0], column.examples[-1][-1]
    if isinstance(column, NumberColumn):
        return column.as_values(pa.array(numbers.clip(low, high)))
    whole = np.rint(numbers).clip(-(2.0**63), np.nextafter(2.0**63, 0)).astype(np.int64)
    return column.as_values(pa.array(whole.clip(int(low), int(high))))


def concatenated(parts: Sequence[CellSummary]) -> CellSummary:
    """Return the summary of the cells of several ones."""
    if parts[0].probability is not None:
        probability = np.concatenate([part.probability for part in parts if part.probability is not None])
        return CellSummary(pa.concat_arrays([part.values for part in parts]), probability=probability)
    joined = (pa.concat_arrays([getattr(part, name) for part in parts]) for name in ("values", "low", "high"))
    return CellSummary(*joined)
