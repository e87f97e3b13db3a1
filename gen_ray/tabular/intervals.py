"""The division of a column of numbers into intervals, each with observed values that stand for it."""

from dataclasses import dataclass

import numpy as np

MOST_EXAMPLES, LEAST_EXAMPLES, EXAMPLES_IN_ALL = 32, 4, 2**20
"""Limits of the observed values of an interval, and of all intervals of a table, whose description stays small."""


@dataclass(frozen=True)
class Intervals:
    """Intervals of numbers by code: smallest observed value, observed values, mean value and weight, each (K,)."""

    starts: tuple[float, ...]
    examples: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]
    weights: np.ndarray


def divide(values: np.ndarray, weights: np.ndarray, most: int, most_examples: int = MOST_EXAMPLES) -> Intervals:
    """Return at most ``most`` intervals of distinct ascending values (n,) with weights (n,) of int64.

    With at most ``most`` values each has an interval. Otherwise a value whose share is at least 1/most has an interval,
    which ends at the next value, and the remaining values are cut at quantiles.
    """
    groups = np.arange(len(values)) if len(values) <= most else _groups(weights, most)
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    mass = np.add.reduceat(weights, first)
    with np.errstate(over="ignore"):
        means = np.add.reduceat(values.astype(np.float64) * (weights / mass[groups]), first)
    ends = [*first[1:], len(values)]
    means = means.clip(values[first], values[np.array(ends) - 1])  # the sum may exceed the largest float64
    examples = tuple(_examples(values[a:b], weights[a:b], most_examples) for a, b in zip(first, ends, strict=True))
    return Intervals(tuple(values[first].tolist()), examples, tuple(means.tolist()), mass)


def _groups(weights: np.ndarray, most: int) -> np.ndarray:
    """Return the number (n,) of the interval of each value, at most ``most`` of them."""
    by_weight = np.argsort(-weights, kind="stable")
    atoms = int((weights[by_weight] * most >= weights.sum()).sum())
    parts = most - atoms
    while True:
        is_atom = np.zeros(len(weights), bool)
        is_atom[by_weight[:atoms]] = True
        groups = _cut(weights, is_atom, max(1, parts))
        excess = int(groups[-1]) + 1 - most
        if excess <= 0:
            return groups
        if parts > 1:
            parts = max(1, parts - excess)
        else:
            atoms, parts = atoms - 1, most - atoms + 1


def _cut(weights: np.ndarray, is_atom: np.ndarray, parts: int) -> np.ndarray:
    """Return the number (n,) of the interval of each value: atoms, and the others in parts of about equal weight."""
    others = np.where(is_atom, 0, weights)
    part = (np.cumsum(others) - others) * parts // max(1, int(others.sum()))
    new = np.diff(part, prepend=part[0]) > 0
    new |= is_atom | np.concatenate([[False], is_atom[:-1]])
    new[0] = True
    return np.cumsum(new) - 1


def examples_per_code(columns: int, bins: int) -> int:
    """Return the largest number of observed values of an interval in a table with a number of columns."""
    return int(np.clip(EXAMPLES_IN_ALL // (columns * bins), LEAST_EXAMPLES, MOST_EXAMPLES))


def _examples(values: np.ndarray, weights: np.ndarray, most: int) -> tuple[float, ...]:
    """Return at most ``most`` of an interval's values, in ascending order and equally probable."""
    return (values[0].item(),) if len(values) == 1 else tuple(values[equally_probable(weights, most)].tolist())


def equally_probable(weights: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` ascending indices of values with weights (n,), each of which stands for the same weight.

    Indices are repeated where a weight is large.
    """
    ends = np.cumsum(weights)
    total = int(ends[-1]) if len(ends) else 0
    n = min(most, total)
    middles = (2 * np.arange(n) + 1) * total // (2 * max(1, n))
    return np.searchsorted(ends, middles, side="right")
