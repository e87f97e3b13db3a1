"""Chains that do not end in noise, from which sampling starts, are refused."""

from typing import Any

import pytest

from gen_ray import families
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError

SPEC = DataSpec(name="toy", kind="image", shape=(1, 4, 4), levels=17)


@pytest.mark.parametrize(
    ("schedule", "fault"),
    [
        ({"name": "linear", "beta_max": 0.9}, "alpha is .* at t = 1; 32-bit floats"),
        ({"name": "linear", "beta_max": 1e-4}, "alpha is 0.951 and sigma is 0.308"),
        ({"name": "cosine", "beta_clip": 1e-3}, "alpha must be at most 0.5·sigma"),
        ({"name": "linear"}, ""),
        ({"name": "cosine"}, ""),
        ({"name": "sigmoid"}, ""),
    ],
)
def test_a_chain_ends_in_noise(schedule: dict[str, Any], fault: str) -> None:
    family = families.find("ddpm")
    config = family.Config(schedule=schedule, net={"name": "mlp"})
    if not fault:
        assert family(config, SPEC).samplers()
        return
    with pytest.raises(UserError, match=fault):
        family(config, SPEC)
