"""Loss, gradient, likelihood, samplers and imputers of every family, net, kernel and SDE on the device and the CPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.generate import generate
from gen_ray.experiment import load
from gen_ray.family import Family
from gen_ray.maths.chain import Chain, Known
from tests.families.cases import Case, awake, rng
from tests.gpu.comparison import (
    NLL_RTOL,
    TF32_RTOL,
    HostDraws,
    assert_gradients_near,
    assert_near,
    assert_same_samples,
    full_precision,
    gradients,
    of_which,
    on,
)

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
STEPS = 3
"""A rounding error grows with the number of steps, so samplers are compared after a few."""

CONFIGS = Path(__file__).parents[2] / "configs"
FASHION = DataSpec(name="fashion", kind="image", shape=(1, 28, 28), levels=256)
COARSE = DataSpec(name="fashion-32", kind="image", shape=(1, 28, 28), levels=32)
CHARACTERS = DataSpec(name="characters", kind="tokens", shape=(128,), levels=65)
SHIPPED = {
    "fashion-vae": FASHION,
    "fashion-ddpm": FASHION,
    "fashion-score-sde": FASHION,
    "fashion-discrete": COARSE,
    "shakespeare-absorbing": CHARACTERS,
    "shakespeare-uniform": CHARACTERS,
    "shakespeare-order": CHARACTERS,
}
"""Data of the right kind and shape, drawn at random: no test downloads anything."""


def both(family: Family, device: torch.device) -> Iterator[tuple[torch.device, nn.Module]]:
    """Yield the CPU and the device, each with a copy of one net."""
    yield CPU, awake(family)
    yield device, on(device, awake(family))


def learned(family: Family, device: torch.device, x: Tensor) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return the loss and its gradient on the CPU and on the device."""
    found = []
    for target, net in both(family, device):
        with HostDraws():
            loss = family.loss(net, x.to(target), rng(), step=1).total
        assert loss.device == target
        loss.mean().backward()
        found.append((loss, gradients(net)))
    return found


def rows(device: torch.device) -> int:
    """Return the number of samples, which is smaller on the CPU because it is slower."""
    return 32 if device.type == "cuda" else 8


def test_loss_and_gradient(case: Case, device: torch.device) -> None:
    with full_precision():
        (loss, slope), (on_device, device_slope) = learned(case.model(), device, case.x(rows(device)))
    assert_near(on_device, loss)
    assert_gradients_near(device_slope, slope)


def test_likelihood(case: Case, device: torch.device) -> None:
    found, family = [], case.model()
    with full_precision(), torch.no_grad():
        for target, net in both(family, device):
            with HostDraws():
                found.append(family.fitted(net).nll(net, case.x(rows(device)).to(target), rng(), effort=2).nats)
    assert found[1].device == device
    assert_near(found[1], found[0], NLL_RTOL)


def chains(family: Family) -> Iterator[tuple[str, Chain, bool]]:
    """Yield every sampler and imputer in a few steps, and whether it is an imputer."""
    for name, about in family.samplers().items():
        yield name, family.chain(name, about.steps_up_to(STEPS)), False
    for name, about in family.imputers().items():
        yield name, family.impute(name, about.steps_up_to(STEPS)), True


def half_known(case: Case, n: int) -> Known:
    """Return n examples, each with one half missing."""
    return Known(known=case.x(n), mask=torch.rand((n, *case.spec.shape), generator=rng(n)) < 0.5)


def test_samplers_and_imputers(case: Case, device: torch.device) -> None:
    found, n = [], rows(device)
    with full_precision():
        for target, net in both(case.model(), device):
            fitted = case.model().fitted(net)
            found.append(
                {
                    (name, imputes): generate(
                        net, chain, n, seed=0, device=target, known=half_known(case, n) if imputes else None
                    )
                    for name, chain, imputes in chains(fitted)
                }
            )
    on_cpu, on_device = found
    assert on_cpu.keys() == on_device.keys() and on_cpu
    for key in on_cpu:
        assert_same_samples(on_device[key], on_cpu[key], levels=0 if case.family == "discrete" else 1)


@pytest.mark.parametrize("name", of_which(["fashion-vae"], [name for name in SHIPPED if name != "fashion-vae"]))
def test_configuration_of_this_repository(name: str, device: torch.device) -> None:
    """The nets of the README's figures, with TF32 as in torch's default."""
    experiment = load(CONFIGS / f"{name}.yaml")
    family, spec = experiment.model(SHIPPED[name]), SHIPPED[name]
    x = torch.randint(spec.levels, (rows(device) // 4, *spec.shape), generator=rng(), dtype=torch.uint8)
    (loss, slope), (on_device, device_slope) = learned(family, device, x)
    assert_near(on_device, loss, TF32_RTOL)
    assert_gradients_near(device_slope, slope, TF32_RTOL)
    default = family.samplers()[experiment.sampler(family).partition(":")[0]]
    chain = family.chain(experiment.sampler(family), default.steps_up_to(STEPS))
    with full_precision():
        samples = [generate(net, chain, len(x), seed=0, device=target) for target, net in both(family, device)]
    assert_same_samples(samples[1], samples[0], levels=1 if spec.is_image else 0)
