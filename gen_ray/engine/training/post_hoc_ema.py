"""Post-hoc EMA: snapshots of power-function averages saved during training, from which other EMA widths are computed.

Karras et al. 2024 (arXiv 2312.02696), section 3; the arithmetic is in maths/power_ema.py.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gen_ray.engine.training import checkpoint
from gen_ray.engine.training.checkpoint_store import CheckpointStore, step_of
from gen_ray.errors import UserError
from gen_ray.maths import power_ema
from gen_ray.storage import paths

MAX_RESIDUAL = 0.08
"""The largest accepted residual of a fit.

Measured on four trainings of digits models (4,700 and 9,400 steps, cosine decay of the learning rate): the error of the
weights as a share of the distance from the average to the last weights.

    8 snapshots        width 0.15, residual 0.033    0.9 %
                       width 0.2, residual 0.077     5 %
                       width 0.22, residual 0.106    8 %
                       width 0.25, residual 0.180    15-17 %
    2 snapshots        width 0.12, residual 0.073    15 %
                       width 0.2, residual 0.450     28 %

At widths below 0.05 the error is better compared with the distance to the nearest saved average. With 8 snapshots it is
twice as large at width 0.02 (residual 0.245), so that the saved average is the better estimate, and 0.9 times as large
at width 0.03 (0.100)."""
MAX_WIDTH_ERROR = 0.1
"""The largest difference between the requested width and that of the fit (``power_ema.width``), as a share of it.

The residual at which it is reached depends on the number of snapshots: 0.011, 0.022, 0.012, 0.014 and 0.022 for 1, 2,
3, 4 and 8, at widths near 0.05, that of the narrower saved average. At widths above 0.1 it is reached only at residuals
of 0.3 to 0.6."""
FEW_SNAPSHOTS, MAX_RESIDUAL_OF_FEW = 8, 0.02
"""With fewer snapshots a fit of the right width may still have wrong weights: see 2 snapshots, width 0.12."""


def file_names(powers: Mapping[float, nn.Module]) -> dict[str, nn.Module]:
    """Return the averages by the name of their file."""
    return {f"power-{gamma:g}": average for gamma, average in powers.items()}


def snapshot_steps(home: Path) -> list[int]:
    """Return the steps of the snapshots in a run's folder. Raise UserError where there are none."""
    found = [step_of(folder) for folder in snapshots(home).folders()]
    if not found:
        raise UserError(f"{home.name}: no weight snapshots were saved; train with training.ema_snapshots above 0")
    return found


def residual(home: Path, sigma_rel: float, at: int | None = None) -> float:
    """Return the residual of the fit that ``average`` uses, without reading weights.

    Raise UserError where the run has no snapshots, the width does not exist, or the fit is not close enough.
    """
    return _fit(home, sigma_rel, at).residual


def average(home: Path, sigma_rel: float, at: int | None = None) -> dict[str, Tensor]:
    """Return the weights (a state dict, float32) of the average of relative width sigma_rel at a snapshot's step.

    at None means the last snapshot. Raise UserError as ``residual`` does, RunError for a damaged file.
    """
    fit = _fit(home, sigma_rel, at)
    with ExitStack() as stack:
        return _sum([stack.enter_context(paths.local_copy(folder)) for folder in fit.folders], fit.coefficients)


@dataclass(frozen=True)
class _Fit:
    """Folders in order of their steps, the coefficients (F·2,) of the two averages in each, and the fit's residual."""

    folders: list[Path]
    coefficients: list[float]
    residual: float


def _fit(home: Path, sigma_rel: float, at: int | None) -> _Fit:
    steps = [step for step in snapshot_steps(home) if at is None or step <= at]
    try:
        solution = _solve(steps, power_ema.gamma_of(sigma_rel))
    except ValueError as error:
        raise UserError(str(error), field="sigma_rel") from None
    if not solution.is_close(sigma_rel, len(steps)):
        raise UserError(
            f"width {sigma_rel:g} does not fit; use one of {_widths(steps)}, or train with a higher "
            f"training.ema_snapshots (fit to {len(steps)} snapshots: residual {solution.residual:.3f}, limit "
            f"{_limit(len(steps)):g}; width {solution.width:.3g}, limit {MAX_WIDTH_ERROR:.0%} off)",
            field="sigma_rel",
        )
    return _Fit([snapshots(home).folder_of(step) for step in steps], solution.coefficients.tolist(), solution.residual)


@dataclass(frozen=True)
class _Solution:
    """The coefficients of the saved averages, the residual of their sum, and the sum's relative width."""

    coefficients: Tensor
    residual: float
    width: float

    def is_close(self, sigma_rel: float, snapshot_count: int) -> bool:
        return self.residual <= _limit(snapshot_count) and abs(self.width / sigma_rel - 1) <= MAX_WIDTH_ERROR


def _limit(snapshot_count: int) -> float:
    return MAX_RESIDUAL_OF_FEW if snapshot_count < FEW_SNAPSHOTS else MAX_RESIDUAL


def _solve(steps: list[int], gamma: float) -> _Solution:
    """Fit the averages saved at these steps to the one of gamma at the last step."""
    at = torch.tensor(steps, dtype=torch.float64).repeat_interleave(len(power_ema.GAMMAS))
    gammas, last = torch.tensor(power_ema.GAMMAS, dtype=torch.float64).repeat(len(steps)), float(steps[-1])
    coefficients = power_ema.coefficients(at, gammas, last, gamma)
    residual = power_ema.residual(at, gammas, last, gamma, coefficients)
    return _Solution(coefficients, residual, power_ema.width(at, gammas, last, coefficients))


def _widths(steps: list[int]) -> str:
    """Return the feasible widths as intervals, in steps of 0.001."""
    grid = range(5, 289)
    good = [n for n in grid if _solve(steps, power_ema.gamma_of(n / 1000)).is_close(n / 1000, len(steps))]
    lows = [n for n in good if n - 1 not in good]
    highs = [n for n in good if n + 1 not in good]
    return ", ".join(f"{low / 1000:g} to {high / 1000:g}" for low, high in zip(lows, highs, strict=True))


def _sum(folders: list[Path], coefficients: list[float]) -> dict[str, Tensor]:
    for folder in folders:
        checkpoint.verify(folder)
    files = [(folder, gamma) for folder in folders for gamma in power_ema.GAMMAS]
    total: dict[str, Tensor] = {}
    for (folder, gamma), coefficient in zip(files, coefficients, strict=True):
        with safe_open(folder / f"power-{gamma:g}.safetensors", "pt") as stored:
            for key in stored.keys():  # noqa: SIM118 (not a dict)
                value = coefficient * stored.get_tensor(key).double()
                total[key] = total[key] + value if key in total else value
    return {key: value.float() for key, value in total.items()}


def snapshots(home: Path) -> CheckpointStore:
    """Return the snapshots of averages in a run's folder."""
    return CheckpointStore(home / "averages")
