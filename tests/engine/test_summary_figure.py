"""The summary figure shows samples and completions of a model of any family."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import evaluate
from gen_ray.engine.evaluation.reference import ReferenceData
from gen_ray.engine.evaluation.summary_figure import (
    COLUMNS,
    COMPLETIONS,
    SAMPLES,
    half_masks,
    summary_figure,
    table_figure,
)
from gen_ray.engine.evaluation.table_evaluation import EvaluationRows, picture
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.impute import complete
from gen_ray.engine.plots import grids
from gen_ray.experiment import load
from tests import tabular_joint
from tests.conftest import ROOT
from tests.engine.tiny_models import CPU

DEMO = sorted((ROOT / "configs" / "demo").glob("digits-*.yaml"))
DIGITS = DataSpec(name="digits", kind="image", shape=(1, 8, 8), levels=17)
TINY = {
    "vae": ["family.net.hidden=[8]"],
    "ddpm": ["family.net={name: mlp, width: 8, depth: 1}", "family.steps=6"],
    "discrete": ["family.net={name: tokens, width: 16, depth: 1, heads: 2}", "evaluation.steps=4"],
    "score_sde": ["family.net={name: mlp, width: 8, depth: 1}", "family.steps=6"],
}
"""What makes a model of the demo small enough for a test, by its family."""


def untrained(file: Path) -> artifact.Model:
    family = load(file).family.name
    experiment = load(file, [*TINY[family], "training.precision=float32"])
    torch.manual_seed(0)
    bound = experiment.model(DIGITS)
    net = bound.build_net().eval().requires_grad_(False)
    return artifact.Model(experiment=experiment, family=bound, net=net, meta={})


def tiles(picture: np.ndarray, top: int, rows: int) -> np.ndarray:
    """Return the 8×8 images of a grid that starts at row top, (rows, COLUMNS, 8, 8, 3): a pixel of each 7×7 square."""
    found = [
        [picture[top + 60 * i : top + 60 * i + 56 : 7, 60 * j : 60 * j + 56 : 7] for j in range(COLUMNS)]
        for i in range(rows)
    ]
    return np.array(found)


def test_the_demo_covers_every_family() -> None:
    assert sorted(load(file).family.name for file in DEMO) == sorted(TINY)


@pytest.mark.parametrize("file", DEMO, ids=lambda file: file.stem)
def test_samples_stand_above_images_masked_images_and_completions(file: Path) -> None:
    model, n = untrained(file), 5
    x = torch.randint(17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture, mask = summary_figure(model, x, device=CPU), half_masks(x)
    samples, _ = evaluate.sample(model, SAMPLES, device=CPU)
    below = picture.shape[0] - (60 * n - 4)
    shown = grids.grid(samples, levels=17)
    assert picture.shape[1] == shown.shape[1] and (picture[22 : 22 + len(shown)] == shown).all()
    assert (picture[22 + len(shown) : below] < 200).any(), "a caption stands between the two"
    rows, given = tiles(picture, below, n), grids.rgb(x, levels=17).permute(0, 2, 3, 1).numpy()
    known = mask.permute(0, 2, 3, 1).numpy()[..., 0]
    assert (rows[:, 0] == given).all() and (rows[:, 1][~known] == grids.MISSING_COLOUR).all()
    for column in range(1, COLUMNS):
        assert (rows[:, column][known] == given[known]).all()
    made = complete(model, x, mask, COMPLETIONS, device=CPU)
    filled = grids.rgb(made.samples.flatten(0, 1), levels=17).permute(0, 2, 3, 1).numpy()
    assert (rows[:, 2:].reshape(filled.shape) == filled).all()


def test_each_half_is_masked_in_turn() -> None:
    known = half_masks(torch.zeros(5, 3, 4, 6))
    assert known.shape == (5, 3, 4, 6) and (known.flatten(1).double().mean(1) == 0.5).all()
    upper, lower, left, right = known[:4]
    assert upper[:, :2].all() and lower[:, 2:].all() and left[..., :3].all() and right[..., 3:].all()
    assert torch.equal(known[4], upper)


def test_the_figure_of_a_table_compares_as_many_samples_as_training_rows() -> None:
    spec, rows = tabular_joint.spec(), tabular_joint.ROWS.repeat(3, 1).short()
    experiment = load(ROOT / "configs" / "demo" / "wine-discrete.yaml", ["training.precision=float32"])
    bound = experiment.model(spec)
    model = artifact.Model(experiment=experiment, family=bound, net=tabular_joint.PerfectNet(), meta={})
    reference = ReferenceData(
        train=rows, test=rows[:24], rows_seed=0, fingerprint="0", reference_split="train", extractor=None
    )
    samples, _ = evaluate.sample(model, len(rows), device=CPU)
    shown = picture(EvaluationRows.of(samples, reference, spec, len(rows)))
    figure = table_figure(model, reference, device=CPU)
    assert (figure[-len(shown) :] == shown).all() and (figure[: -len(shown)] < 200).any(), "a caption stands above"
