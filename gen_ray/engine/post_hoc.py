"""Power-function averages kept while training, from which averages of any length are made afterwards.

Karras et al. 2024 (arXiv 2312.02696), section 3; the arithmetic is in maths/power_ema.py.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gen_ray import storage
from gen_ray.engine import checkpoint
from gen_ray.engine.shelf import Shelf, step_of
from gen_ray.errors import UserError
from gen_ray.maths import power_ema


def named(powers: Mapping[float, nn.Module]) -> dict[str, nn.Module]:
    """Return the averages by the name of their file."""
    return {f"power-{gamma:g}": average for gamma, average in powers.items()}


def times(home: Path) -> list[int]:
    """Return the steps at which a run's folder keeps averages. Raise UserError where it keeps none."""
    found = [step_of(folder) for folder in shelf(home).folders()]
    if not found:
        raise UserError(f"{home.name}: no averages were kept; train with training.ema_snapshots above 0")
    return found


def average(home: Path, sigma_rel: float, at: int | None = None) -> dict[str, Tensor]:
    """Return the weights (a state dict, float32) of the average of relative width sigma_rel at one of the times kept.

    That is the last one unless another step is given. Raise UserError where the run kept nothing or such an average
    does not exist, RunError for a damaged file.
    """
    folders = [shelf(home).place(step) for step in times(home) if at is None or step <= at]
    try:
        gamma = power_ema.gamma_of(sigma_rel)
    except ValueError as error:
        raise UserError(f"--sigma-rel: {error}") from None
    with ExitStack() as stack:
        return _average([stack.enter_context(storage.here(folder)) for folder in folders], gamma)


def _average(folders: list[Path], gamma: float) -> dict[str, Tensor]:
    files = [(folder, kept) for folder in folders for kept in power_ema.GAMMAS]
    kept_at = torch.tensor([float(step_of(folder)) for folder, _ in files], dtype=torch.float64)
    gammas = torch.tensor([kept for _, kept in files], dtype=torch.float64)
    for folder in folders:
        checkpoint.verify(folder)
    parts = power_ema.coefficients(kept_at, gammas, float(kept_at[-1]), gamma).tolist()
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
