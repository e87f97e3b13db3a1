"""Resumption on the device: an interrupted and resumed training equals an uninterrupted one to the bit."""

from pathlib import Path

import pytest
import torch

from gen_ray.engine.training.loop import fit
from gen_ray.engine.training.session import LocalSession
from gen_ray.experiment import Experiment
from gen_ray.storage import manifest
from tests.engine.tiny_models import SPEC, KilledError, SessionKilledAtStep5, experiment, splits
from tests.gpu.comparison import full_run, of_which, repeatable

pytestmark = pytest.mark.gpu
FAMILIES = ("vae", "ddpm", "ddpm-learned", "tokens", "score_sde")
LAST = "step-000000010"
"""40 rows in batches of 8 are 5 steps an epoch, and there are 2 epochs."""


def run(exp: Experiment, folder: Path, device: torch.device, kind: type[LocalSession] = LocalSession) -> None:
    fit(exp, exp.model(SPEC), kind(splits(exp), folder, device))


def trained(family: str, precision: str, folder: Path, device: torch.device) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of each file of the last checkpoint of an uninterrupted and of a resumed training."""
    exp = experiment(family, precision=precision, checkpoint_every_seconds=0, ema_decay=0.9, decay="cosine")
    run(exp, folder / "whole", device)
    with pytest.raises(KilledError):
        run(exp, folder / "halves", device, SessionKilledAtStep5)
    torch.manual_seed(12345)  # the resumed process has another global state
    run(exp, folder / "halves", device)
    return {name: manifest.read(folder / name / LAST) for name in ("whole", "halves")}


@pytest.mark.parametrize("precision", of_which(["float32"], ["bfloat16"]))
@pytest.mark.parametrize("family", of_which(["ddpm-dropout"], FAMILIES))
def test_resumed_training_is_equal_to_the_bit(
    family: str, precision: str, tmp_path: Path, device: torch.device
) -> None:
    with repeatable():
        found = trained(family, precision, tmp_path, device)
    assert found["whole"] == found["halves"] and len(found["whole"]) >= 4


@full_run
@pytest.mark.parametrize("family", ["ddpm-dropout", *FAMILIES])
def test_resumed_training_with_the_default_algorithms(family: str, tmp_path: Path, device: torch.device) -> None:
    """Without deterministic algorithms a GPU may add in another order; the test is then an expected failure."""
    found = trained(family, "float32", tmp_path, device)
    if device.type == "cuda" and found["whole"] != found["halves"]:
        pytest.xfail(f"{family}: not equal to the bit without deterministic algorithms")
    assert found["whole"] == found["halves"]
