"""Power-function averages kept while training, from which averages of any length are made afterwards.

Karras et al. 2024 (arXiv 2312.02696), section 3; the arithmetic is in maths/power_ema.py.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gen_ray import storage
from gen_ray.engine import checkpoint
from gen_ray.engine.shelf import Shelf, step_of
from gen_ray.errors import UserError
from gen_ray.maths import power_ema

MOST_RESIDUAL = 0.08
"""The largest residual of a fit. Measured on four trainings of digits models (4,700 and 9,400 steps, cosine decay of
the learning rate), the error of the weights as a share of the distance from the average to the last weights:

    kept at 8 times    width 0.15, residual 0.033    0.9 %
                       width 0.2, residual 0.077     5 %
                       width 0.22, residual 0.106    8 %
                       width 0.25, residual 0.180    15-17 %
    kept at 2 times    width 0.12, residual 0.073    15 %
                       width 0.2, residual 0.450     28 %

Below 0.05 the error is better measured by the distance to the nearest average kept: at width 0.02 of 8 times (0.245) it
is twice as large, so that the kept one is the better estimate; at 0.03 (0.100) it is 0.9 times as large."""


def named(powers: Mapping[float, nn.Module]) -> dict[str, nn.Module]:
    """Return the averages by the name of their file."""
    return {f"power-{gamma:g}": average for gamma, average in powers.items()}


def times(home: Path) -> list[int]:
    """Return the steps at which a run's folder keeps averages. Raise UserError where it keeps none."""
    found = [step_of(folder) for folder in shelf(home).folders()]
    if not found:
        raise UserError(f"{home.name}: no averages were kept; train with training.ema_snapshots above 0")
    return found


def residual(home: Path, sigma_rel: float, at: int | None = None) -> float:
    """Return the residual of the fit by which ``average`` makes an average, without reading weights.

    Raise UserError where the run kept nothing, such an average does not exist, or the residual is above MOST_RESIDUAL.
    """
    return _fit(home, sigma_rel, at).residual


def average(home: Path, sigma_rel: float, at: int | None = None) -> dict[str, Tensor]:
    """Return the weights (a state dict, float32) of the average of relative width sigma_rel at one of the times kept.

    That is the last one unless another step is given. Raise UserError as ``residual`` does, RunError for a bad file.
    """
    fit = _fit(home, sigma_rel, at)
    with ExitStack() as stack:
        return _sum([stack.enter_context(storage.here(folder)) for folder in fit.folders], fit.parts)


@dataclass(frozen=True)
class _Fit:
    """Folders in the order of their times, the parts (F·2,) of the two averages in each, and the fit's residual."""

    folders: list[Path]
    parts: list[float]
    residual: float


def _fit(home: Path, sigma_rel: float, at: int | None) -> _Fit:
    kept = [step for step in times(home) if at is None or step <= at]
    try:
        parts, residual = _solve(kept, power_ema.gamma_of(sigma_rel))
    except ValueError as error:
        raise UserError(f"--sigma-rel: {error}") from None
    if residual > MOST_RESIDUAL:
        raise UserError(
            f"--sigma-rel: {sigma_rel:g} cannot be made from averages kept at {len(kept)} times: the residual of the "
            f"fit is {residual:.3f}, the limit {MOST_RESIDUAL:g}; widths from {_widths(kept)} can (more with a higher "
            "training.ema_snapshots)"
        )
    return _Fit([shelf(home).place(step) for step in kept], parts.tolist(), residual)


def _solve(kept: list[int], gamma: float) -> tuple[Tensor, float]:
    """Return the parts by which averages kept at these steps fit the one of gamma at the last, and the residual."""
    at = torch.tensor(kept, dtype=torch.float64).repeat_interleave(len(power_ema.GAMMAS))
    gammas = torch.tensor(power_ema.GAMMAS, dtype=torch.float64).repeat(len(kept))
    parts = power_ema.coefficients(at, gammas, float(kept[-1]), gamma)
    return parts, power_ema.residual(at, gammas, float(kept[-1]), gamma, parts)


def _widths(kept: list[int]) -> str:
    """Return the interval of widths, in thousandths, around the kept ones that can be made within MOST_RESIDUAL."""
    grid = [width / 1000 for width in range(5, 289)]
    good = [width for width in grid if _solve(kept, power_ema.gamma_of(width))[1] <= MOST_RESIDUAL]
    return f"{min(good):g} to {max(good):g}"


def _sum(folders: list[Path], parts: list[float]) -> dict[str, Tensor]:
    for folder in folders:
        checkpoint.verify(folder)
    files = [(folder, kept) for folder in folders for kept in power_ema.GAMMAS]
    total: dict[str, Tensor] = {}
    for (folder, kept), part in zip(files, parts, strict=True):
        with safe_open(folder / f"power-{kept:g}.safetensors", "pt") as stored:
            for key in stored.keys():  # noqa: SIM118 (not a dict)
                value = part * stored.get_tensor(key).double()
                total[key] = total[key] + value if key in total else value
    return {key: value.float() for key, value in total.items()}


def shelf(home: Path) -> Shelf:
    """Return the averages kept in a run's folder."""
    return Shelf(home / "averages")
