"""The columns of a table, from the statistics of the data and the user's settings."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gen_ray.errors import UserError, short
from gen_ray.tabular.column_types import column_type
from gen_ray.tabular.columns import (
    BaseColumn,
    CategoryColumn,
    DatetimeColumn,
    IntegerColumn,
    NumberColumn,
    OrderedColumn,
)
from gen_ray.tabular.intervals import MOST_EXAMPLES, divide, equally_probable
from gen_ray.tabular.options import ColumnOptions, TableOptions
from gen_ray.tabular.parse import describe
from gen_ray.tabular.remarks import on_rare_values
from gen_ray.tabular.retained import Retained
from gen_ray.tabular.statistics import ColumnStatistics
from gen_ray.tabular.texts import is_text, natural_type, parse_cells, shown

LEAST_COUNT = 5
"""Smallest number of training rows of a category; rarer values are ``other``, because a model cannot learn them."""
MOST_RARE = 64
LEAST_ROWS, MOST_SPAN, NEARLY_ALL = 20, 1.5, 0.9
"""Identifiers: fewest training rows; range of integers as a multiple of them; share of texts that are different."""


@dataclass(frozen=True)
class Finding:
    """The result for a column of the data: its typed column, or the reason why it is left out."""

    name: str
    column: BaseColumn | None
    missing_share: float
    examples: tuple[str, ...] = ()
    left_out: str = ""
    note: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """Return lines for a user: a note, and the reason why the column is left out."""
        left_out = f"column {self.name!r} is left out: {self.left_out}" if self.left_out else ""
        return tuple(line for line in (self.note, left_out) if line)


@dataclass(frozen=True)
class _Known:
    """Distinct values (n,) of a column with weights (n,), and the numbers of training rows that they stand for."""

    values: pa.Array
    weights: np.ndarray
    rows: int
    missing: int

    def counts(self, weights: np.ndarray) -> tuple[int, ...]:
        """Return weights (k,) as numbers of training rows."""
        return tuple(np.rint(weights * (self.rows / max(1, self.weights.sum()))).astype(np.int64).tolist())


def infer(
    name: str, statistics: ColumnStatistics, options: TableOptions, where: str, examples_per_code: int = MOST_EXAMPLES
) -> Finding:
    """Return the type and codes of a column, or the reason why it is left out.

    Raise UserError for infinite numbers, and for settings that do not suit the data; where names the data.
    """
    own, retained = options.of(name), statistics.retained()
    share, path = 1 - statistics.known / max(1, statistics.rows), f"data.options.columns.{name}"
    if own.keep is False:
        return Finding(name, None, share, left_out=f"{path}.keep is false")
    kind = statistics.arrow_type
    if kind is not None and not is_text(kind) and natural_type(kind) is None:
        return Finding(name, None, share, left_out=f"values of type {kind} are not supported")
    if retained is None:
        return Finding(name, None, share, left_out="all its values are missing")
    typed, note = column_type(name, statistics, retained, own, options.markers(name))
    values = parse_cells(retained.values, typed).values
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    known = _Known(
        values.filter(pa.array(valid)), retained.weights[valid], statistics.known, statistics.rows - statistics.known
    )
    if not len(known.values) and own.type is own.format is None:
        return Finding(name, None, share, left_out=f"none of its values is {describe(typed)}", note=note)
    if not len(known.values):
        raise UserError(f"{where}: {_no_value(typed, own, retained, path)}")
    if isinstance(typed, NumberColumn):
        _check_finite(known.values, statistics, f"{where}: column {name!r}", path)
    column, examples, left_out = _with_codes(typed, known, own, options, examples_per_code)
    if left_out.startswith("an identifier") and (own.keep or own.type):
        left_out = ""
    elif left_out.startswith(("an identifier", "each")) and not note:  # a note names another remedy
        left_out += f"; {path}.keep=true keeps it"
    if isinstance(column, CategoryColumn) and not left_out:
        note = note or on_rare_values(column, options.max_categories, _least_count(own))
    brief = tuple(text if len(text) <= 20 else f"{text[:19]}…" for text in examples)
    return Finding(name, None if left_out else column, share, brief, left_out, note)


def _with_codes(
    column: BaseColumn, known: _Known, own: ColumnOptions, options: TableOptions, examples_per_code: int
) -> tuple[BaseColumn, list[str], str]:
    """Return a column with codes, examples of its values, and the reason to leave it out."""
    if isinstance(column, OrderedColumn):
        return _with_intervals(column, known, own.bins or options.bins, examples_per_code)
    if isinstance(column, CategoryColumn):
        return _with_categories(column, known, options.max_categories, _least_count(own))
    return _with_truth_values(column, known)


def _least_count(own: ColumnOptions) -> int:
    """Return the smallest number of training rows of a category."""
    return 1 if own.keep else LEAST_COUNT


def _no_value(column: BaseColumn, own: ColumnOptions, retained: Retained, path: str) -> str:
    """Return a message for a column without a value of the type that the user has set."""
    setting = f"format={own.format}" if own.format else f"type={own.type}"
    format_of_times = f"; {path}.format gives another format, e.g. %d/%m/%Y"
    remedy = format_of_times if isinstance(column, DatetimeColumn) else ""
    example = f"{shown(retained.values[0])} is not {describe(column)}"
    return f"column {column.name!r} has only other values than {path}.{setting} expects: {example}{remedy}"


def _check_finite(values: pa.Array, statistics: ColumnStatistics, column: str, path: str) -> None:
    """Raise UserError if a column has infinite numbers."""
    if statistics.infinite or not np.isfinite(values.to_numpy()).all():
        raise UserError(
            f"{column} has infinite numbers; correct them, or let their texts mark missing values: "
            f"{path}.missing=['', inf, -inf]"
        )


def _with_intervals(
    column: OrderedColumn, known: _Known, bins: int, most_examples: int
) -> tuple[BaseColumn, list[str], str]:
    """Return a column with codes, examples of its values, and the reason to leave it out."""
    numbers, places = np.unique(column.as_numbers(known.values).to_numpy(), return_inverse=True)
    weights = np.bincount(places, known.weights).astype(np.int64)
    shown = column.as_values(pa.array(numbers[[0, len(numbers) // 2, -1]])).to_pylist()
    examples = list(dict.fromkeys(map(str, shown)))
    if len(numbers) == 1:
        return column, examples, f"all its values are {examples[0]}"
    span = int(numbers[-1]) - int(numbers[0]) + 1
    identifier = (
        isinstance(column, IntegerColumn)
        and weights.max() == 1
        and known.rows >= LEAST_ROWS
        and span < MOST_SPAN * known.rows
    )
    cut = divide(numbers, weights, bins, most_examples)
    update = {
        "starts": cut.starts,
        "examples": cut.examples,
        "means": cut.means,
        "counts": known.counts(cut.weights),
    }
    left_out = "an identifier, different and nearly consecutive integers" if identifier else ""
    return column.model_copy(update=update), examples, left_out


def _with_categories(column: CategoryColumn, known: _Known, most: int, least: int) -> tuple[BaseColumn, list[str], str]:
    """Return a column with codes, examples of its values, and the reason to leave it out."""
    texts = known.values.cast(pa.string()).to_pylist()
    order = sorted(range(len(texts)), key=lambda i: (-known.weights[i], texts[i]))
    weights, texts = known.weights[order], [texts[i] for i in order]
    n = min(most, int((weights >= least).sum()))
    absent = np.array([known.missing] if column.missing_as_category else [], np.int64)
    update = {
        "categories": tuple(texts[:n]),
        "rare": tuple(texts[n + i] for i in equally_probable(weights[n:], MOST_RARE)),
        "counts": (*known.counts(weights[:n]), *absent.tolist(), *known.counts(weights[n:].sum(keepdims=True))),
    }
    reason = ""
    if len(texts) >= NEARLY_ALL * weights.sum() and len(texts) >= LEAST_ROWS:
        reason = "an identifier, nearly all its texts are different"
    elif len(texts) == 1 and not absent.any():
        reason = f"all its values are {short(texts[0])}"
    elif not n:
        reason = f"each of its values occurs in fewer than {least} training rows"
    return column.model_copy(update=update), texts[:3], reason


def _with_truth_values(column: BaseColumn, known: _Known) -> tuple[BaseColumn, list[str], str]:
    """Return a column with codes, examples of its values, and the reason to leave it out."""
    truths = known.values.to_numpy(zero_copy_only=False).astype(np.int64)
    weights = np.bincount(truths, known.weights, minlength=2)
    reason = "" if weights.all() else f"all its values are {'true' if weights[1] else 'false'}"
    return column.model_copy(update={"counts": known.counts(weights)}), ["false", "true"], reason
