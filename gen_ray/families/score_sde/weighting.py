"""The loss weightings: distributions of the training times and weights of the error."""

from collections.abc import Callable, Mapping

from torch import Tensor

from gen_ray.maths.sde import Sde


def _uniform_t(sde: Sde, part: Tensor) -> tuple[Tensor, float]:
    return sde.t_min + (1 - sde.t_min) * part, 1.0


def _uniform_u(sde: Sde, part: Tensor) -> tuple[Tensor, float]:
    low, high = sde.u_range
    return sde.time(low + (high - low) * part), high - low


WEIGHTINGS: Mapping[str, Callable[[Sde, Tensor], tuple[Tensor, float]]] = {"eps": _uniform_t, "likelihood": _uniform_u}
"""Functions from stratified uniforms (B,) in [0, 1) to times (B,) and the weight of ‖eps − eps_hat‖², by name.

``eps`` is lambda = sigma² (Song et al. 2021, section 3.3). ``likelihood`` is lambda = g² (Song et al. 2021b, eq. 9)
with t drawn in proportion to g²/sigma² (ibid., section 4.3), which is a uniform u (maths/sde.py). It gives nats up to a
constant.
"""
