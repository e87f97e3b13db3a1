"""RowConditions on the values of columns, such as age=30..40 or education=Masters|Doctorate, as weights of codes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.dataspec import DataSpec
from gen_ray.errors import LONGEST_SHOWN, UserError, nearest, short
from gen_ray.tabular.columns import BaseColumn, CategoryColumn, OrderedColumn
from gen_ray.tabular.parse import describe
from gen_ray.tabular.texts import parse_texts

RANGE, ALTERNATIVES = "..", "|"


class ConditionError(UserError):
    """A condition that a model cannot satisfy. ``reason`` is its message without the texts of the condition."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Take the reason, and the message with the texts of the condition."""
        super().__init__(detail or reason)
        self.reason = reason


@dataclass(frozen=True)
class AllowedValues:
    """The values that a condition allows, for each of a column's codes.

    ``places`` (m,) are their places in the values that ``decode`` selects from, code by code: ``counts`` (K_d,) of
    the ``sizes`` (K_d,) values.
    """

    places: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Return the probability (K_d,) that a value of each code is allowed."""
        return self.counts / self.sizes

    def uniforms(self, codes: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return uniforms (n,) for ``decode`` that select allowed values of codes (n,), from uniforms u (n,)."""
        first = np.cumsum(self.counts) - self.counts
        place = self.places[first[codes] + (u * self.counts[codes]).astype(np.int64)]
        return (place + 0.5) / self.sizes[codes]


@dataclass(frozen=True)
class RowConditions:
    """The conditions on a row. A column has at most one of these.

    ``known``: columns that have one value, by index: its code, and the value as an array (1,). ``allowed``: columns
    that may have several values.
    """

    known: dict[int, tuple[int, pa.Array]] = field(default_factory=dict)
    allowed: dict[int, AllowedValues] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    """The conditions as they were written, by column."""

    def __bool__(self) -> bool:
        """Return whether there is a condition."""
        return bool(self.known or self.allowed)

    def select_allowed(self, codes: np.ndarray, u: np.ndarray) -> None:
        """Change the uniforms u (n, D) for ``decode``, so that they select allowed values of codes (n, D)."""
        for d, allowed in self.allowed.items():
            decided = codes[:, d] >= 0
            u[decided, d] = allowed.uniforms(codes[decided, d], u[decided, d])


def parse_conditions(texts: Sequence[str], spec: DataSpec) -> RowConditions:
    """Return the conditions NAME=VALUE, NAME=LOW..HIGH (either may be left out) or NAME=VALUE|VALUE of a command.

    Raise UserError naming the nearest column or value, and for conditions that no value satisfies.
    """
    made, names = RowConditions(), [column.name for column in spec.columns]
    for text in texts:
        name, value = _parts(text, names)
        try:
            add_condition(made, name, value.strip(), spec)
        except UserError as error:
            raise UserError(str(error), field="where", value=text) from None
    return made


def _parts(text: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the name and value of a condition. A column's name may have equals signs and spaces. Raise UserError."""
    exact = max((name for name in names if text.startswith(f"{name}=")), key=len, default=None)
    name = text.partition("=")[0] if exact is None else exact
    value = text[len(name) + 1 :]
    if not value.strip():
        raise UserError("must be NAME=VALUE, NAME=LOW..HIGH or NAME=VALUE|VALUE", field="where", value=text)
    return name if exact is not None else name.strip(), value


def add_condition(made: RowConditions, name: str, value: str, spec: DataSpec) -> None:
    """Add the condition VALUE, LOW..HIGH or VALUE|VALUE on a column. Raise ConditionError."""
    names = [column.name for column in spec.columns]
    if name not in names:
        hint = nearest(name[:LONGEST_SHOWN], names)
        raise ConditionError(f"has a column that is not known; {hint}", f"unknown column {short(name)}: {hint}")
    d = names.index(name)
    column = spec.columns[d]
    if d in made.texts:
        raise ConditionError(f"there are two conditions on {column.name!r}; write one, such as NAME=LOW..HIGH")
    made.texts[d] = f"{name}={value}"
    _add(made, d, column, value)


def _add(made: RowConditions, d: int, column: BaseColumn, value: str) -> None:
    low, dots, high = value.partition(RANGE)
    if isinstance(column, OrderedColumn) and dots:
        made.allowed[d] = _in_range(column, low.strip(), high.strip())
        return
    whole = isinstance(column, CategoryColumn) and value in {*column.categories, *column.rare}
    values = [value] if whole else value.split(ALTERNATIVES)
    if len(values) == 1:
        known = _value(column, value)
        made.known[d] = int(column.encode(known)[0]), known
    else:
        made.allowed[d] = _one_of(column, [_value(column, one.strip()) for one in values])


def _value(column: BaseColumn, text: str) -> pa.Array:
    """Return a value (1,) of a column. Raise ConditionError."""
    named = f"column {column.name!r}"
    if isinstance(column, CategoryColumn) and text not in (known := {*column.categories, *column.rare}):
        hint = nearest(text[:LONGEST_SHOWN], known)
        raise ConditionError(
            f"{named} does not have this value, {hint}", f"{named} does not have the value {short(text)}, {hint}"
        )
    parsed = parse_texts(pa.array([text]), column)
    if parsed.bad.any() or parsed.values.null_count:
        raise ConditionError(f"{named} must be {describe(column)}", f"{named}: {short(text)} is not {describe(column)}")
    return parsed.values


def _in_range(column: OrderedColumn, low: str, high: str) -> AllowedValues:
    """Return the values from low to high, both included; an empty text means without a limit."""
    if not low and not high:
        raise ConditionError("the range has neither a lower nor an upper end")
    lower, upper = (_value(column, text) if text else None for text in (low, high))
    if lower is not None and upper is not None and pc.greater(lower[0], upper[0]).as_py():
        fault = "of the range is above the upper end"
        raise ConditionError(f"the lower end {fault}", f"the lower end {low} {fault} {high}")
    flat = column.decode(*all_values(column))
    inside = pa.array(np.ones(len(flat), bool))
    if lower is not None:
        inside = pc.and_(inside, pc.greater_equal(flat, lower[0]))
    if upper is not None:
        inside = pc.and_(inside, pc.less_equal(flat, upper[0]))
    found = _allowed(column, inside.to_numpy(zero_copy_only=False))
    if not found.counts.any():
        span = pc.min_max(flat)
        raise ConditionError(
            f"no training value of {column.name!r} is in this range; its values are between "
            f"{_shown(span['min'])} and {_shown(span['max'])}"
        )
    return found


def _one_of(column: BaseColumn, values: Sequence[pa.Array]) -> AllowedValues:
    """Return several values, where a code with other values too allows only those that are listed."""
    flat = column.decode(*all_values(column))
    listed = pc.is_in(flat, value_set=pa.concat_arrays(values)).to_numpy(zero_copy_only=False)
    found = _allowed(column, listed)
    absent = [value for value in values if not found.counts[column.encode(value)[0]]]
    if absent:
        fault = f"is not among the stored values of {column.name!r}; give one value, or a range LOW..HIGH"
        raise ConditionError(f"a value {fault}", f"{_shown(absent[0][0])} {fault}")
    return found


def only_code(column: BaseColumn, code: int) -> AllowedValues:
    """Return all values of one code."""
    return _allowed(column, all_values(column)[0] == code)


def all_values(column: BaseColumn) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and uniforms that decode to all values of a column, those of each code in order."""
    sizes = column.values_per_code
    codes = np.repeat(np.arange(column.cardinality), sizes)
    return codes, (_places(sizes) + 0.5) / sizes[codes]


def _allowed(column: BaseColumn, inside: np.ndarray) -> AllowedValues:
    """Return the allowed values of a mask over all values."""
    sizes = column.values_per_code
    counts = np.add.reduceat(inside.astype(np.int64), np.cumsum(sizes) - sizes)
    return AllowedValues(_places(sizes)[inside], counts, sizes)


def _places(sizes: np.ndarray) -> np.ndarray:
    """Return 0 … size−1 for each code, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _shown(value: pa.Scalar) -> str:
    found = value.as_py()
    return str(found) if isinstance(found, datetime | date | time) else repr(found)
