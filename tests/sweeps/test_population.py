"""Population based training: laws of the copies and their settings that hold for every draw."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_ray.sweeps.axes import SearchAxis
from gen_ray.sweeps.points import sample_axis
from gen_ray.sweeps.population import donors, explore

SPACE = {
    "rate": SearchAxis(loguniform=(1e-4, 1e-1)),
    "decay": SearchAxis(uniform=(0.0, 1.0)),
    "width": SearchAxis(randint=(1, 9)),
    "clip": SearchAxis(choice=[None, 0.5, 1.0, [1, 2]]),
    "betas": SearchAxis(choice=[[0.9, 0.99], [0.5, 0.9]], when={"clip": [0.5, 1.0]}),
}


def started(rng: np.random.Generator) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, axis in SPACE.items():
        if axis.active(point):
            point[key] = sample_axis(axis, rng)
    return point


@given(seed=st.integers(0, 2**32), resample=st.floats(0, 1))
def test_a_hundred_steps_stay_within_the_bounds_and_depend_on_the_seed_only(seed: int, resample: float) -> None:
    def walked() -> list[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        points = [started(rng)]
        for _ in range(100):
            points.append(dict(explore(SPACE, points[-1], resample, rng)))
        return points

    points = walked()
    assert points == walked()
    for point in points:
        assert 1e-4 <= point["rate"] <= 1e-1 and 0 <= point["decay"] <= 1 and point["clip"] in SPACE["clip"].ends
        assert isinstance(point["width"], int) and 1 <= point["width"] <= 9
        assert ("betas" in point) == (point["clip"] in (0.5, 1.0)), "a key occurs only with the key it depends on"


def test_without_resampling_a_step_is_a_factor_or_a_neighbour() -> None:
    rng, steps = np.random.default_rng(0), set()
    for _ in range(50):
        found = explore({key: SPACE[key] for key in ("rate", "clip")}, {"rate": 1e-2, "clip": 0.5}, 0.0, rng)
        steps.add((round(found["rate"] / 1e-2, 6), found["clip"]))
    assert steps == {(factor, clip) for factor in (0.8, 1.2) for clip in (None, 1.0)}


@pytest.mark.parametrize(
    ("losses", "quantile", "pairs"),
    [
        ({0: 3.0, 1: 1.0, 2: 2.0, 3: 4.0}, 0.25, {3: {1}}),
        ({0: 3.0, 1: 1.0, 2: 2.0, 3: 4.0}, 0.5, {3: {1, 2}, 0: {1, 2}}),
        ({0: 3.0, 1: 1.0, 2: float("nan")}, 0.5, {2: {1}}),  # half of three is one; nan is the worst
        ({4: 1.0, 7: 1.0}, 0.1, {7: {4}}),
        ({0: 1.0}, 0.5, {}),
    ],
)
def test_the_worst_copy_the_best(losses: dict[int, float], quantile: float, pairs: dict[int, set[int]]) -> None:
    found = [donors(losses, quantile, np.random.default_rng(seed)) for seed in range(30)]
    assert {worst: {one[worst] for one in found} for worst in found[0]} == pairs
