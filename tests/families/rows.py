"""Specs of small tables for the family tests."""

import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.tabular.columns import BooleanColumn, CategoryColumn, Column, IntegerColumn


def number(name: str, K: int) -> IntegerColumn:
    """Return an ordered column of the K values 0 … K−1."""
    values = tuple(range(K))
    return IntegerColumn(
        name=name,
        arrow_type="int64",
        counts=(10,) * K,
        starts=values,
        examples=tuple((value,) for value in values),
        means=tuple(float(value) for value in values),
    )


def category(name: str, K: int) -> CategoryColumn:
    """Return a column of K categories, the last one for rare values."""
    return CategoryColumn(
        name=name, arrow_type="string", counts=(10,) * K, categories=tuple(f"{name}{i}" for i in range(K - 1))
    )


def boolean(name: str) -> BooleanColumn:
    """Return a column of two truth values."""
    return BooleanColumn(name=name, arrow_type="bool", counts=(10, 10))


def table(*columns: Column, name: str = "rows") -> DataSpec:
    """Return the spec of a table of these columns."""
    levels = max(2, *(column.cardinality for column in columns))
    return DataSpec(name=name, kind="table", shape=(len(columns),), levels=levels, columns=columns)


def all_rows(spec: DataSpec) -> Tensor:
    """Return every row of codes that a table can have, (N, D) int32."""
    return torch.cartesian_prod(*(torch.arange(k) for k in spec.cardinalities.tolist())).int()


def random_rows(spec: DataSpec, n: int, rng: torch.Generator, *, missing: float = 0.0) -> Tensor:
    """Return n uniformly drawn rows of codes (n, D) int32, a share ``missing`` of them −1."""
    u, hidden = (torch.rand(n, len(spec.columns), generator=rng) for _ in range(2))
    codes = (u * torch.from_numpy(spec.cardinalities)).int()
    return torch.where(hidden < missing, -1, codes)
