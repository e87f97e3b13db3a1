"""The summary figure of a model.

Of images: samples, and completions of held-out images with one half missing. Of tables: the marginals of columns and
the dependence of pairs, in real rows and in samples.
"""

import numpy as np
import torch
from torch import Tensor

from gen_ray.engine.evaluation import evaluate
from gen_ray.engine.evaluation.reference import ReferenceData
from gen_ray.engine.evaluation.table_evaluation import EvaluationRows, picture
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.impute import Completions, complete
from gen_ray.engine.plots import grids

SAMPLES = 64
COLUMNS = 8
COMPLETIONS = COLUMNS - 2
"""With the image and its masked version this fills COLUMNS, so that both grids have the same width."""


def summary_figure(model: Model, x: Tensor, *, device: torch.device) -> np.ndarray:
    """Return samples and, below them, a row for each image of x (N, C, H, W), as uint8 (H, W, 3).

    A row shows the image, the image with its missing half, and completions. Samples use the evaluation's sampler,
    completions the family's default imputer at its default steps.
    """
    samples, _ = evaluate.sample(model, SAMPLES, device=device)
    completions = complete(model, x, half_masks(x), COMPLETIONS, device=device)
    imputer = next(iter(model.family.imputers()))
    return grids.stacked(
        {
            _how_sampled(model, SAMPLES): grids.grid(samples, levels=model.spec.levels, columns=COLUMNS),
            f"test images, their missing halves, completions by {imputer}, {completions.nfe} nfe": grids.grid(
                _rows(completions, x), columns=COLUMNS
            ),
        }
    )


def table_figure(model: Model, reference: ReferenceData, *, device: torch.device) -> np.ndarray:
    """Return marginals and dependence of pairs, real against as many samples, as uint8 (H, W, 3)."""
    rows = model.experiment.evaluation.table_rows
    n = min(len(reference.train), rows)
    samples, _ = evaluate.sample(model, n, device=device)
    shown = picture(EvaluationRows.of(samples, reference, model.spec, rows))
    return grids.stacked({_how_sampled(model, n): shown})


def _how_sampled(model: Model, n: int) -> str:
    nfe = model.experiment.chain(model.family).nfe
    return f"{n:,} samples by {model.experiment.sampler(model.family)}, {nfe} nfe"


def half_masks(x: Tensor) -> Tensor:
    """Return masks of x (N, C, H, W), True where known; the lower, upper, right and left halves are missing in turn."""
    height, width = x.shape[-2:]
    down, across = torch.arange(height)[:, None].expand(height, width), torch.arange(width).expand(height, width)
    upper, left = down < height // 2, across < width // 2
    known = torch.stack([upper, ~upper, left, ~left])
    return known[torch.arange(len(x)) % len(known)][:, None].expand_as(x)


def _rows(completions: Completions, x: Tensor) -> Tensor:
    """Return uint8 (N·(2 + k), 3, H, W): for each image itself, its masked version, and its completions."""
    levels = completions.spec.levels
    inputs = [grids.rgb(x, levels=levels), grids.with_missing(x, completions.mask, levels=levels)]
    filled = [grids.rgb(completions.samples[:, j], levels=levels) for j in range(completions.k)]
    return torch.stack([*inputs, *filled], 1).flatten(0, 1)
