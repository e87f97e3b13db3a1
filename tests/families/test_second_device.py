"""Families on another device: losses, likelihoods and samples equal those of the CPU."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gen_ray.engine.inference.generate import generate
from gen_ray.family import Family
from gen_ray.maths.chain import Chain
from tests.families.cases import CASES, Case, awake, rng
from tests.families.test_contract import CPU, everywhere, partly_known
from tests.second_device import SECOND_DEVICE, second_device

some = pytest.mark.parametrize("case", CASES[::3], ids=lambda case: f"{case.family}-{case.name}")
"""What takes long, for a third of the cases: they share their kernels, bounds and nets with the others."""
FEW = 3


def both(case: Case) -> Iterator[tuple[torch.device, Family, nn.Module]]:
    """Yield the device, a separate family and its net there: the CPU first, then the other device."""
    for device in (CPU, SECOND_DEVICE):
        family = case.model()
        net = awake(family)
        with second_device():
            yield device, family, net.to(device)


def near(on_cpu: Tensor, on_device: Tensor) -> bool:
    """Return whether two tensors differ only by rounding."""
    return bool((on_cpu - on_device).abs().max() <= 1e-5 * on_cpu.abs().max())


@everywhere
def test_loss_and_gradients_equal_those_of_the_cpu(case: Case) -> None:
    found = []
    for device, family, net in both(case):
        loss = family.loss(net, case.x(4).to(device), rng(device=device), step=1).total
        assert loss.device == device
        loss.mean().backward()
        found.append([loss.detach().cpu(), *(p.grad.cpu() for p in net.parameters() if p.grad is not None)])
    assert len(found[0]) > 1 and all(near(*pair) for pair in zip(*found, strict=True))


@pytest.mark.soak
@some
def test_a_likelihood_equals_that_of_the_cpu(case: Case) -> None:
    found = []
    for device, family, net in both(case):
        with torch.no_grad():
            found.append(family.nll(net, case.x(4).to(device), rng(device=device), effort=2).nats.cpu())
    torch.testing.assert_close(*found)


def chains(family: Family) -> Iterator[tuple[Chain, bool]]:
    """Yield every sampler and imputer with its fewest steps, at least FEW, and whether it is an imputer."""
    for name, sampler in family.samplers().items():
        yield family.chain(name, sampler.steps_up_to(FEW)), False
    for name, imputer in family.imputers().items():
        yield family.impute(name, imputer.steps_up_to(FEW)), True


@pytest.mark.soak
@some
def test_samples_equal_those_of_the_cpu(case: Case) -> None:
    found: list[list[Tensor]] = []
    for device, family, net in both(case):
        parts = {True: partly_known(case, 4), False: None}
        fitted = chains(family.fitted(net))
        found.append([generate(net, chain, 4, seed=0, device=device, known=parts[given]) for chain, given in fitted])
    assert all((on_cpu.int() - on_device.int()).abs().max() <= 1 for on_cpu, on_device in zip(*found, strict=True))
