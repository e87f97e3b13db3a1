"""Options and fixtures of the GPU tests: the device, and the cases that run on it.

A GPU runs all of them, and so does ``--device cpu``. Without either option, in the ordinary tests, the CPU runs a few
cases of each test, because other tests cover the rest there.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.families.cases import CASES, Case
from tests.tiers import FEW_CASES

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""cuBLAS reads it once, when CUDA starts; deterministic algorithms need it."""


def runs_all(config: pytest.Config) -> bool:
    """Return whether all cases are requested, by ``-m gpu`` or by ``--device``."""
    return config.getoption("--device") is not None or chosen(config) == "cuda"


def chosen(config: pytest.Config) -> str:
    """Return the requested device: CUDA with ``-m gpu``, otherwise the CPU."""
    return config.getoption("--device") or ("cuda" if config.getoption("markexpr").strip() == "gpu" else "cpu")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every case to a test that takes a ``case``; in the ordinary tests only a few."""
    if "case" in metafunc.fixturenames:
        cases = CASES if runs_all(metafunc.config) else [Case(*names) for names in FEW_CASES]
        metafunc.parametrize("case", cases, ids=[f"{case.family}-{case.name}" for case in cases])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests marked full_run out of the ordinary tests."""
    left_out = [] if runs_all(config) else [item for item in items if item.get_closest_marker("full_run")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device under test. Skip the test where torch cannot use it."""
    name = chosen(request.config)
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no GPU; --device cpu runs these tests on the CPU")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


@pytest.fixture(autouse=True, scope="package")
def few_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use one thread of the CPU in the ordinary tests: the tensors are small, and other tests run at the same time."""
    before = torch.get_num_threads()
    if not runs_all(request.config):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
