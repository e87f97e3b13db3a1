"""The batcher on the device: mixed samplers, likelihoods beside samples, cancelled requests, memory, equal bytes."""

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_ray.engine.inference import score as scoring
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import Batcher, CancelledError, LatencyProfile, RequestHandle, measure
from gen_ray.engine.inference.generate import generate
from gen_ray.errors import RunError
from gen_ray.experiment import parse
from gen_ray.maths.chain import Known
from tests.engine.tiny_models import experiment, images, model
from tests.families.cases import Case, awake, rng
from tests.gpu.comparison import assert_same_samples, full_precision, of_which

pytestmark = pytest.mark.gpu
SECONDS = 60
COSTS = LatencyProfile((1, 2, 4, 8, 16, 32), (1.0, 1.1, 1.3, 1.7, 2.5, 4.0))
"""Made up, so that batches have the same sizes on every device; one test measures."""


@contextmanager
def open_batcher(of: Model, device: torch.device, costs: LatencyProfile = COSTS) -> Iterator[Batcher]:
    batcher = Batcher(of, costs, device, backlog_seconds=1e9)
    try:
        yield batcher
    finally:
        batcher.close(drain=False)


def served(case: Case, device: torch.device) -> Model:
    family = case.model()
    net = awake(family).requires_grad_(False).to(device)
    exp = parse({"name": "case", "family": case.settings, "training": {"precision": "float32"}})
    return Model(experiment=exp, family=family, net=net, meta={})


def toy(family: str, device: torch.device, precision: str = "float32") -> Model:
    made = model(family)
    return replace(made, experiment=experiment(family, precision=precision), net=made.net.to(device))


def test_costs_are_measured(device: torch.device) -> None:
    costs = measure(toy("ddpm-dropout", device), device)
    assert costs.rows[0] == 1 and list(costs.seconds) == sorted(costs.seconds) and costs.row_seconds > 0


def test_mixed_samplers_and_imputers_equal_separate_ones(case: Case, device: torch.device) -> None:
    """All run at once, in batches too small for all of them."""
    of = served(case, device)
    mask = torch.rand((2, *case.spec.shape), generator=rng()) < 0.5
    known_part = Known(known=case.x(2), mask=mask)
    chains = [(of.family.chain(name), None) for name, about in of.family.samplers().items() if not about.adaptive]
    chains += [(of.family.impute(name), known_part) for name in of.family.imputers()]
    with full_precision(), open_batcher(of, device) as batcher:
        handles = [batcher.submit(chain, 2, seed=seed, known=part) for seed, (chain, part) in enumerate(chains)]
        found = [handle.future.result(SECONDS) for handle in handles]
        single = [
            generate(of.net, chain, 2, seed=seed, device=device, known=part)
            for seed, (chain, part) in enumerate(chains)
        ]
    assert_same_samples(torch.cat(found), torch.cat(single), levels=0 if case.family == "discrete" else 1)
    for samples in found[-len(of.family.imputers()) :]:
        assert torch.equal(samples[mask].long(), known_part.known[mask].long())


@pytest.mark.parametrize("family", ["vae", "ddpm", "ddpm-learned", "tokens", "score_sde"])
def test_likelihoods_beside_samples(family: str, device: torch.device) -> None:
    of, x = toy(family, device), images(5)
    single = scoring.score(of, x, effort=6, repeats=2, device=device)
    with open_batcher(of, device) as batcher:
        busy = [batcher.submit(of.experiment.chain(of.family), 4, seed=seed) for seed in range(3)]

        def work(net: Any) -> scoring.InstanceScores:
            return scoring.score(replace(of, net=net), x, effort=6, repeats=2, device=device)

        scores = batcher.submit_callable(work, 60).future.result(SECONDS)
        wait([handle.future for handle in busy], timeout=SECONDS)
    assert (scores.kind, scores.nfe) == (single.kind, single.nfe)
    torch.testing.assert_close(scores.bits_per_dim, single.bits_per_dim, rtol=1e-3, atol=1e-4)


def test_a_gradient_beside_samples(device: torch.device) -> None:
    of = toy("ddpm", device)

    def slope(net: Any) -> Tensor:
        x = torch.zeros(1, 1, 4, 4, device=device, requires_grad=True)
        with torch.enable_grad():
            return torch.autograd.grad(net(x, torch.ones(1, device=device)).sum(), x)[0]

    with open_batcher(of, device) as batcher:
        busy = batcher.submit(of.family.chain("ancestral"), 4, seed=0)
        torch.testing.assert_close(batcher.submit_callable(slope, 1).future.result(SECONDS), slope(of.net))
        assert busy.future.result(SECONDS).shape == (4, 1, 4, 4)


def test_a_cancelled_request_is_removed_and_the_others_continue(device: torch.device) -> None:
    of = toy("ddpm", device)
    chain = of.family.chain("ancestral")
    with open_batcher(of, device) as batcher:
        others = [batcher.submit(chain, 3, seed=seed) for seed in range(2)]
        cancelled = [
            batcher.submit(chain, 400, seed=9),
            batcher.submit_callable(lambda net: endless(net, device), 10**6),
        ]
        for handle in cancelled:
            handle.cancel_request()
            assert isinstance(handle.future.exception(SECONDS), CancelledError)
        found = [handle.future.result(SECONDS) for handle in others]
        assert batcher.admission.pending == 0 and batcher.healthy
    single = [generate(of.net, chain, 3, seed=seed, device=device) for seed in range(2)]
    assert_same_samples(torch.cat(found), torch.cat(single))


def endless(net: Any, device: torch.device) -> None:
    while True:
        net(torch.zeros(1, 1, 4, 4, device=device), torch.zeros(1, device=device))


# ---- out of memory --------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A net that takes 1 MiB a row. A CPU's memory is not limited: there it raises as if eight rows had filled it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if x.device.type == "cpu" and len(x) > 8:
            raise torch.OutOfMemoryError("CPU out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory …")
        taken = x.new_empty(len(x), 2**18)
        out: Tensor = self.net(x, t)
        del taken
        return out


@contextmanager
def little_memory(device: torch.device) -> Iterator[None]:
    """Leave 256 MiB of a GPU's memory beside the memory in use: cuBLAS and cuDNN take some of it."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + 2**28) / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def test_out_of_memory_is_reported_in_one_line_and_the_others_continue(device: torch.device) -> None:
    plain = toy("ddpm-dropout", device)
    of = replace(plain, net=Small(plain.net))
    rows = 1024 if device.type == "cuda" else 32
    chain = of.family.chain("ddim", 3)
    with little_memory(device), open_batcher(of, device, LatencyProfile((1, rows), (1.0, 1.1))) as batcher:
        small = batcher.submit(chain, 2, seed=0).future.result(SECONDS)
        for _ in range(2):
            large = batcher.submit(chain, rows, seed=1).future.exception(SECONDS)
            assert isinstance(large, MemoryError) and str(large).startswith(f"out of memory on {device}: ")
            assert "\n" not in str(large) and large.__traceback__ is None
            again = batcher.submit(chain, 2, seed=0).future.result(SECONDS)
            assert torch.equal(small, again) and batcher.healthy

        def evaluate(net: Any) -> Tensor:
            out: Tensor = net(torch.zeros(rows, 1, 4, 4, device=device), torch.zeros(rows, device=device))
            return out

        visitor = batcher.submit_callable(evaluate, rows).future.exception(SECONDS)
        assert isinstance(visitor, MemoryError) and "\n" not in str(visitor)
        assert batcher.admission.pending == 0


def test_costs_are_measured_up_to_the_largest_batch_that_fits(device: torch.device) -> None:
    plain = toy("ddpm-dropout", device)
    with little_memory(device):
        costs = measure(replace(plain, net=Small(plain.net)), device)
    assert 2 <= costs.rows[-1] <= (128 if device.type == "cuda" else 8)


def test_a_model_that_does_not_fit_is_reported_in_one_line(device: torch.device) -> None:
    plain = toy("ddpm", device)

    class Full(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("out of memory.\nA paragraph.")

    with pytest.raises(RunError) as error:
        measure(replace(plain, net=Full()), device)
    assert str(error.value) == f"out of memory on {device}: one sample of this model does not fit"


# ---- the same bytes -------------------------------------------------------------------------------------------------


def sha256(handle: RequestHandle) -> str:
    return hashlib.sha256(handle.future.result(SECONDS).contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("precision", of_which(["float32"], ["bfloat16"]))
@pytest.mark.parametrize("family", of_which(["ddpm-dropout"], ["vae", "ddpm", "tokens", "score_sde"]))
def test_deterministic_gives_the_same_bytes_beside_any_requests(
    family: str, precision: str, device: torch.device
) -> None:
    """A request without others, and among 64 others with other samplers, sizes and seeds, half of them padded."""
    of, random_ = toy(family, device, precision), random.Random(0)
    names = [name for name, about in of.family.samplers().items() if not about.adaptive]
    chain, hashes = of.experiment.chain(of.family), set()
    with open_batcher(of, device) as batcher:
        hashes.add(sha256(batcher.submit(chain, 3, seed=7, padded=True)))
    for position in (0, 31, 63):
        with open_batcher(of, device) as batcher:
            others, needle = [], None
            for i in range(64):
                if i == position:
                    needle = batcher.submit(chain, 3, seed=7, padded=True)
                name = random_.choice(names)
                about = of.family.samplers()[name]
                steps = about.steps_up_to(random_.randint(2, 12))
                company = of.family.chain(name, steps)
                others.append(batcher.submit(company, random_.randint(1, 5), seed=100 + i, padded=bool(i % 2)))
            assert needle is not None
            hashes.add(sha256(needle))
            done, waiting = wait([handle.future for handle in others], timeout=SECONDS)
            assert not waiting and not any(future.exception() for future in done)
    assert len(hashes) == 1
