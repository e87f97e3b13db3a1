"""The division of a column of numbers into intervals, each with observed values that stand for it."""

from dataclasses import dataclass

import numpy as np

MOST_EXAMPLES = 32


@dataclass(frozen=True)
class Intervals:
    """Intervals of numbers by code: smallest observed value, observed values, mean value and weight, each (K,)."""

    starts: tuple[float, ...]
    examples: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]
    weights: np.ndarray


def divide(values: np.ndarray, weights: np.ndarray, most: int) -> Intervals:
    """Return at most ``most`` intervals of distinct ascending values (n,) with weights (n,) of int64.

    With at most ``most`` values each has an interval. Otherwise a value whose share is at least 1/most has an interval,
    which ends at the next value, and the remaining values are cut at quantiles.
    """
    groups = np.arange(len(values)) if len(values) <= most else _groups(weights, most)
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    mass = np.add.reduceat(weights, first)
    means = np.add.reduceat(values.astype(np.float64) * (weights / mass[groups]), first)
    ends = [*first[1:], len(values)]
    examples = tuple(_examples(values[a:b], weights[a:b]) for a, b in zip(first, ends, strict=True))
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


def _examples(values: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """Return at most MOST_EXAMPLES of an interval's values, in ascending order and equally probable."""
    return (values[0].item(),) if len(values) == 1 else tuple(values[equally_probable(weights, MOST_EXAMPLES)].tolist())


def equally_probable(weights: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` ascending indices of values with weights (n,), each of which stands for the same weight.

    Indices are repeated where a weight is large.
    """
    ends = np.cumsum(weights)
    total = int(ends[-1]) if len(ends) else 0
    n = min(most, total)
    middles = (2 * np.arange(n) + 1) * total // (2 * max(1, n))
    return np.searchsorted(ends, middles, side="right")
