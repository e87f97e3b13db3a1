"""Points at the ends of a space's ranges, by which a sweep is checked before it starts."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_ray.sweeps.axes import Point, SearchAxis

MAX_CORNERS = 512
"""Maximum number of corners. In a larger space: each value of each key, and a random choice of combinations."""


def corners(space: "Mapping[str, SearchAxis]") -> "list[Point]":
    """Return points at the ends of all ranges and with all choices. The result depends only on the space."""
    found = list(itertools.islice(combinations(list(space.items())), MAX_CORNERS + 1))
    if len(found) <= MAX_CORNERS:
        return found
    rng, chosen = random.Random(0), found[:1]  # noqa: S311  nothing secret
    for key, axis in space.items():
        for end in axis.ends:
            if not any(point.get(key) == end for point in chosen):
                chosen.append(_drawn(space, _with(space, key, end), rng))
    for _ in range(2 * MAX_CORNERS):
        if len(chosen) >= MAX_CORNERS:
            break
        point = _drawn(space, {}, rng)
        if point not in chosen:
            chosen.append(point)
    return chosen


def combinations(axes: "Sequence[tuple[str, SearchAxis]]", point: "Point" = MappingProxyType({})) -> "Iterator[Point]":
    """Yield point extended by every combination of the ends of axes. Inactive axes are left out."""
    if not axes:
        yield dict(point)
        return
    (key, axis), *rest = axes
    for value in [{key: end} for end in axis.ends] if axis.active(point) else [{}]:
        yield from combinations(rest, {**point, **value})


def _with(space: "Mapping[str, SearchAxis]", key: str, end: Any) -> dict[str, Any]:
    """Return an end of an axis, with ends of the axes in its ``when`` for which the axis is active."""
    fixed = {key: end}
    for other in space[key].when:
        for value in space[other].ends:
            if space[key].allows(other, value):
                fixed = {**_with(space, other, value), **fixed}
                break
    return fixed


def _drawn(space: "Mapping[str, SearchAxis]", fixed: Mapping[str, Any], rng: random.Random) -> "Point":
    point: dict[str, Any] = {}
    for key, axis in space.items():
        if axis.active(point):
            point[key] = fixed[key] if key in fixed else rng.choice(axis.ends)
    return point
