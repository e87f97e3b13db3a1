"""torch.compile on the device. Compiling takes tens of seconds, so this file has a separate time limit."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch

from gen_ray.engine.training.loop import fit
from gen_ray.engine.training.session import LocalSession
from tests.engine.tiny_models import SPEC, experiment, splits
from tests.gpu.comparison import RTOL, assert_near, full_run

pytestmark = pytest.mark.gpu


def compiler_lacks() -> str:
    """Return the missing requirements of the compilers of inductor and Triton, or an empty text."""
    if shutil.which("g++") is None:
        return "a C++ compiler (g++)"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return "" if headers.exists() else f"Python's headers (python3-dev): {headers} does not exist"


@full_run
@pytest.mark.parametrize("family", ["vae", "ddpm"])
def test_compiled_training_equals_uncompiled_training(family: str, device: torch.device) -> None:
    if missing := compiler_lacks():
        pytest.skip(f"torch.compile needs {missing}")
    losses, weights = [], []
    for compiled in (False, True):
        exp = experiment(family, compile=compiled, learning_rate=1e-3)
        session = LocalSession(splits(exp), device=device)
        weights.append(fit(exp, exp.model(SPEC), session).state_dict())
        losses.append([line["validation/loss_nats"] for _, line in session.history if "validation/loss_nats" in line])
        assert any("train/compile_seconds" in line for _, line in session.history) is compiled
    assert losses[1] == pytest.approx(losses[0], rel=10 * RTOL) and len(losses[0]) == exp.training.epochs
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        assert_near(weights[1][name], expected.cpu(), 100 * RTOL)  # Adam enlarges the rounding of small gradients
