"""Tables of data for tests: their DataSpec and codes, made directly from values without a source of files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gen_ray.dataspec import DataSpec
from gen_ray.tabular import codec
from gen_ray.tabular.columns import BooleanColumn, CategoryColumn, Column, DatetimeColumn, IntegerColumn, NumberColumn

EXAMPLES = 32


def spec_of(
    table: pa.Table, *, intervals: int = 32, rare: int = 0, target: str | None = None, name: str = "rows"
) -> DataSpec:
    """Return the spec of a table: quantile intervals for numbers and times, a code for each frequent category.

    Categories that occur at most ``rare`` times have the code "other".
    """
    columns = tuple(
        column_of(str(field.name), table.column(i).combine_chunks(), intervals, rare)
        for i, field in enumerate(table.schema)
    )
    levels = max(column.cardinality for column in columns)
    return DataSpec(name=name, kind="table", shape=(len(columns),), levels=levels, columns=columns, target=target)


def column_of(name: str, values: pa.Array, intervals: int, rare: int) -> Column:
    kind, common = values.type, {"name": name, "arrow_type": str(values.type)}
    if pa.types.is_boolean(kind):
        texts = values.drop_null().to_pylist()
        return BooleanColumn(counts=(texts.count(False), texts.count(True)), **common)
    if pa.types.is_string(kind):
        counts = Counter(values.drop_null().to_pylist())
        frequent = {text: n for text, n in counts.most_common() if n > rare}
        others = tuple(text for text in counts if text not in frequent)
        return CategoryColumn(
            categories=tuple(frequent), rare=others[:EXAMPLES],
            counts=(*frequent.values(), sum(counts[text] for text in others)), **common,
        )  # fmt: skip
    of = (
        NumberColumn if pa.types.is_floating(kind) else DatetimeColumn if pa.types.is_timestamp(kind) else IntegerColumn
    )
    empty = of(counts=(1,), means=(0,), starts=(0,), examples=((0,),), **common)
    numbers = np.sort(empty.as_numbers(values.drop_null()).to_numpy())
    numbers = numbers[~np.isnan(numbers)] if of is NumberColumn else numbers
    starts = np.unique(numbers[np.arange(intervals) * len(numbers) // intervals])
    parts = np.split(numbers, np.searchsorted(numbers, starts)[1:])
    examples = [part[np.unique(np.linspace(0, len(part) - 1, EXAMPLES).round().astype(int))] for part in parts]
    return of(
        counts=tuple(len(part) for part in parts), means=tuple(float(part.mean()) for part in parts),
        starts=tuple(starts.tolist()), examples=tuple(tuple(some.tolist()) for some in examples), **common,
    )  # fmt: skip


def coded(values: Mapping[str, Sequence[Any] | np.ndarray] | pa.Table, **settings: Any) -> tuple[DataSpec, np.ndarray]:
    """Return the spec of values by column, and their codes (N, D) in the type in which they are stored."""
    table = values if isinstance(values, pa.Table) else pa.table(values)
    spec = spec_of(table, **settings)
    return spec, codec.encode(table, spec.columns, "the test").astype(spec.storage_dtype)


def mixed_rows(n: int, seed: int = 0) -> pa.Table:
    """Return n rows of dependent columns of every type: a label depends on a number, an amount and a category."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=n)
    kind = np.array(["a", "b", "c", "d"])[rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])]
    amount = np.where(rng.random(n) < 0.6, 0, rng.poisson(np.exp(1 + level / 2)) * 10)
    score = level + 2 * (kind == "b") + amount / 20 + rng.logistic(size=n) / 2
    days = np.datetime64("1999-12-31T00:00:00", "us") + (rng.random(n) * 1e4).astype("timedelta64[D]")
    return pa.table(
        {
            "level": 10 + 3 * level,
            "amount": amount.astype(np.int64),
            "kind": kind.tolist(),
            "day": pa.array(days),
            "member": rng.random(n) < 1 / (1 + np.exp(-level)),
            "label": np.where(score > 1, "yes", "no").tolist(),
        }
    )
