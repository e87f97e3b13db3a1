"""The batcher compared with generate: every request gets the same result as without other requests."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gen_ray.engine.inference import score as scoring
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import (
    Batcher,
    BusyError,
    CancelledError,
    DeadlineExceededError,
    LatencyProfile,
    NotFiniteError,
    Preview,
    fair_shares,
    measure,
)
from gen_ray.engine.inference.generate import generate
from gen_ray.experiment import parse
from gen_ray.maths.chain import Known
from tests.engine.tiny_models import CPU, images, model
from tests.families.cases import CASES, Case, built

CHEAP = LatencyProfile((1, 2, 4, 8, 16), (1.0, 1.1, 1.3, 1.7, 2.5))
everywhere = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.name}")


@contextmanager
def open_batcher(of: Model, costs: LatencyProfile = CHEAP, **options: Any) -> Iterator[Batcher]:
    batcher = Batcher(of, costs, CPU, **{"backlog_seconds": 1e9, **options})
    try:
        yield batcher
    finally:
        batcher.close(drain=False)


def served(case: Case) -> Model:
    family, net = built(case)
    experiment = parse({"name": "case", "family": case.settings, "training": {"precision": "float32"}})
    return Model(experiment=experiment, family=family, net=net, meta={})


class Gated(nn.Module):
    """A net that counts its forward passes and runs each only when the test releases it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.gate, self.sizes, self.come = net, threading.Semaphore(0), [], 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.come += 1
        assert self.gate.acquire(timeout=20)
        self.sizes.append(len(x))
        out: Tensor = self.net(x, t)
        return out


def gated(family: str = "ddpm") -> tuple[Model, Gated]:
    plain = model(family)
    net = Gated(plain.net)
    return Model(experiment=plain.experiment, family=plain.family, net=net, meta=plain.meta), net


# ---- shares -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 100))
def test_rows_are_shared_max_min_fairly(demands: list[int], room: int) -> None:
    given = fair_shares.max_min_shares(demands, room)
    assert sum(given) == min(room, sum(demands)) and all(g <= w for g, w in zip(given, demands, strict=True))
    for mine, demand in zip(given, demands, strict=True):
        if mine < demand:  # a larger request gets at most one row less than another
            assert all(other <= mine + 1 for other in given)


def test_a_large_request_at_most_doubles_the_tick_of_a_small_one() -> None:
    steep = LatencyProfile((1, 2, 4, 8), (1.0, 1.9, 3.6, 6.8))
    assert fair_shares.batch_size([64], steep) == steep.best_rows
    assert fair_shares.batch_size([64, 1], steep) == 2
    assert fair_shares.batch_size([64, 1, 1, 1], steep) == 4
    assert fair_shares.batch_size([], steep) == 0


def test_costs_are_interpolated_linearly_between_measurements() -> None:
    assert [CHEAP.seconds_of(rows) for rows in (3, 32, 0)] == pytest.approx([1.2, 5.0, 0.0])
    assert CHEAP.best_rows == 16 and [CHEAP.rows_within(seconds) for seconds in (0.1, 1.21, 99)] == [1, 3, 16]
    assert LatencyProfile((1, 2, 4), (1.0, 2.0, 4.0)).best_rows == 1


def test_costs_are_measured_on_the_default_sampler() -> None:
    costs = measure(model("ddpm"), CPU)
    assert costs.rows[0] == 1 and list(costs.seconds) == sorted(costs.seconds) and costs.row_seconds > 0


# ---- results of requests ------------------------------------------------------------------------------------------


@everywhere
def test_batched_samples_and_completions_equal_single_ones(case: Case) -> None:
    """Covers every sampler and imputer that is a table, at the same time, in batches too small for all requests."""
    of = served(case)
    family, x = of.family, case.x(2)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask.view(2, -1)[:, : case.spec.dims // 2] = True
    mask &= x >= 0  # a missing value is not known
    known_part = Known(known=x, mask=mask)
    chains = [(family.chain(name), None) for name, about in family.samplers().items() if not about.adaptive]
    chains += [(family.impute(name), known_part) for name in family.imputers()]
    with open_batcher(of) as batcher:
        handles = [batcher.submit(chain, 2, seed=seed, known=known) for seed, (chain, known) in enumerate(chains)]
        found = [handle.future.result(60) for handle in handles]
    for seed, ((chain, known_part), samples) in enumerate(zip(chains, found, strict=True)):
        single = generate(of.net, chain, 2, seed=seed, device=CPU, known=known_part)
        assert samples.dtype == single.dtype
        assert near(samples, single, case), seed
        if known_part is not None:
            assert torch.equal(samples[mask], x[mask].to(samples.dtype))


def near(a: Tensor, b: Tensor, case: Case) -> bool:
    """Return whether values differ by at most one grey level; categories are equal except for rare rounding cases."""
    if case.family == "discrete":
        return float((a != b).float().mean()) <= 0.25
    return int((a.int() - b.int()).abs().max()) <= 1


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_mix_of_requests_gives_each_its_own_result(data: st.DataObject) -> None:
    """Random samplers, steps, numbers, seeds, delays, cancellations and padding: correct results, nothing left over."""
    of = model("ddpm")
    requests = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["ddim", "ancestral", "dpmpp_2m", "heun"]),
                st.integers(2, 20),
                st.integers(1, 9),
                st.integers(0, 3),
                st.booleans(),
                st.sampled_from(["stays", "stays", "gives up", "late"]),
                st.floats(0, 0.004),
            ),
            min_size=1,
            max_size=10,
        )
    )
    with open_batcher(of) as batcher:
        handles = []
        for name, steps, n, seed, padded, fate, delay in requests:
            time.sleep(delay)
            deadline = time.monotonic() + delay if fate == "late" else None
            handles.append(batcher.submit(of.family.chain(name, steps), n, seed=seed, padded=padded, deadline=deadline))
            if fate == "gives up":
                handles[-1].cancel_request()
        wait([handle.future for handle in handles], timeout=60)
        assert batcher.admission.pending == 0 and batcher.admission.requests == 0
        assert not batcher._scheduler.requests and not any(c.rows for c in batcher._scheduler._batches.values())
    for (name, steps, n, seed, _, fate, _), handle in zip(requests, handles, strict=True):
        error = handle.future.exception()
        if error is not None:
            assert (
                isinstance(error, CancelledError if fate == "gives up" else DeadlineExceededError) and fate != "stays"
            )
            continue
        single = generate(of.net, of.family.chain(name, steps), n, seed=seed, device=CPU)
        assert int((handle.future.result().int() - single.int()).abs().max()) <= 1


def test_padded_forwards_give_the_same_bytes_beside_any_requests() -> None:
    of = model("ddpm-dropout")
    chain = of.family.chain("ancestral", 6)
    found = set()
    for company in range(12):
        with open_batcher(of) as batcher:
            others = [
                batcher.submit(of.family.chain("ddim", 3 + i), 1 + i, seed=9 + i, padded=bool(company % 2))
                for i in range(company % 5)
            ]
            needle = batcher.submit(chain, 2, seed=7, padded=True)
            found.add(needle.future.result(60).numpy().tobytes())
            wait([other.future for other in others], timeout=60)
    assert len(found) == 1


def test_previews_show_decided_and_undecided_values() -> None:
    of, previews = model("tokens"), []
    with open_batcher(of, LatencyProfile((1, 2), (1.0, 1.1))) as batcher:
        chain = of.family.chain("first_hitting", 16)
        handle = batcher.submit(chain, 3, seed=1, on_preview=previews.append, previews=5)
        final = handle.future.result(60)
    assert 3 <= len(previews) <= 5
    assert all(isinstance(preview, Preview) and preview.samples.shape == final.shape for preview in previews)
    done = [preview.done for preview in previews]
    assert done == sorted(set(done)) and done[-1] < previews[-1].total
    assert (previews[0].samples == -1).any()
    for look in previews:  # a symbol that an unmasking chain has shown does not change
        decided = look.samples >= 0
        assert torch.equal(look.samples[decided], final[decided].int())


# ---- auxiliary tasks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ddpm", "ddpm-learned", "vae", "tokens"])
def test_a_score_through_the_batcher_equals_the_direct_score(family: str) -> None:
    of, x = model(family), images(5)
    single = scoring.score(of, x, effort=6, repeats=2, device=CPU)
    with open_batcher(of) as batcher:
        busy = [batcher.submit(of.experiment.chain(of.family), 4, seed=seed) for seed in range(3)]

        def work(net: Any) -> scoring.InstanceScores:
            return scoring.score(replace(of, net=net), x, effort=6, repeats=2, device=CPU)

        scores = batcher.submit_callable(work, 60).future.result(60)
        wait([handle.future for handle in busy], timeout=60)
    assert scores.kind == single.kind and scores.nfe == single.nfe
    torch.testing.assert_close(scores.bits_per_dim, single.bits_per_dim, rtol=1e-5, atol=1e-5)


def test_auxiliary_tasks_and_sampling_share_forwards() -> None:
    of, net = gated()
    with open_batcher(of) as batcher:
        chain = of.family.chain("ddim", 4)
        request = batcher.submit(chain, 2, seed=0)
        x = torch.zeros(3, 1, 4, 4)
        until(lambda: net.come == 1)
        task = batcher.submit_callable(lambda shared: shared(x, torch.full((3,), 0.5)), 3, reduced_precision=True)
        until(lambda: batcher._inbox.qsize() == 1)
        net.gate.release(10)
        assert request.future.result(20).shape == (2, 1, 4, 4)
        torch.testing.assert_close(task.future.result(20), net.net(x, torch.full((3,), 0.5)))
    assert net.sizes == [2, 5, 2, 2]


def test_an_auxiliary_task_that_needs_gradients_evaluates_the_net_itself() -> None:
    of = model("ddpm")

    def slope(net: Any) -> Tensor:
        x = torch.zeros(1, 1, 4, 4, requires_grad=True)
        with torch.enable_grad():
            return torch.autograd.grad(net(x, torch.ones(1)).sum(), x)[0]

    with open_batcher(of) as batcher:
        torch.testing.assert_close(batcher.submit_callable(slope, 1).future.result(20), slope(of.net))


def test_an_error_of_an_auxiliary_task_ends_only_that_task() -> None:
    of = model("ddpm")
    with open_batcher(of) as batcher:
        request = batcher.submit(of.family.chain("ddim", 20), 2, seed=0)
        wrong = batcher.submit_callable(lambda net: net(torch.zeros(1, 7, 4, 4), torch.zeros(1)), 1)
        assert "mat1 and mat2" in str(wrong.future.exception(20))
        assert batcher.submit_callable(lambda net: 1 // 0, 1).future.exception(20).__class__ is ZeroDivisionError
        assert request.future.result(20).shape[0] == 2 and batcher.healthy
        assert batcher.admission.pending == 0


# ---- cancellation, errors and admission ---------------------------------------------------------------------------


def until(true: Any) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_cancelled_request_is_removed_before_the_next_tick() -> None:
    of, net = gated()
    with open_batcher(of) as batcher:
        request = batcher.submit(of.family.chain("ancestral", 20), 3, seed=0)
        net.gate.release(5)
        until(lambda: net.come == 6)
        request.cancel_request()
        net.gate.release(1)  # the forward that had already started
        assert isinstance(request.future.exception(20), CancelledError)
        other = batcher.submit(of.family.chain("ddim", 2), 1, seed=0)
        net.gate.release(2)
        assert other.future.result(20) is not None
    assert net.sizes == [3] * 6 + [1] * 2


def test_a_cancelled_auxiliary_task_is_woken() -> None:
    of, net = gated()
    with open_batcher(of) as batcher:
        busy = batcher.submit(of.family.chain("ddim", 2), 1, seed=0)
        task = batcher.submit_callable(
            lambda shared: [shared(torch.zeros(1, 1, 4, 4), torch.zeros(1)) for _ in range(99)], 99
        )
        task.cancel_request()
        net.gate.release(3)
        assert isinstance(task.future.exception(20), CancelledError) and busy.future.result(20) is not None


def test_a_result_that_is_not_finite_fails_only_its_own_request() -> None:
    of, net = gated()
    net.gate.release(1000)
    with open_batcher(of) as batcher:
        with torch.no_grad():
            weight = next(net.parameters())
            original = weight.clone()
            weight.fill_(torch.nan)
        with pytest.raises(NotFiniteError):
            batcher.submit(of.family.chain("ddim", 3), 2, seed=0).future.result(20)
        with torch.no_grad():
            weight.copy_(original)
        assert batcher.submit(of.family.chain("ddim", 3), 2, seed=0).future.result(20) is not None and batcher.healthy


def test_an_error_of_the_net_fails_its_requests_and_makes_the_batcher_unhealthy() -> None:
    plain = model("ddpm")

    class Broken(nn.Module):
        broken = True

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            if self.broken:
                raise RuntimeError("out of memory")
            out: Tensor = plain.net(x, t)
            return out

    net = Broken()
    of = Model(experiment=plain.experiment, family=plain.family, net=net, meta={})
    with open_batcher(of) as batcher:
        for count in range(3):
            assert batcher.healthy == (count < 3)
            with pytest.raises(RuntimeError, match="out of memory"):
                batcher.submit(of.family.chain("ddim", 3), 2, seed=0).future.result(20)
        assert not batcher.healthy
        net.broken = False
        assert batcher.submit(of.family.chain("ddim", 3), 2, seed=0).future.result(20) is not None
        assert batcher.healthy and batcher.admission.pending == 0


def test_overload_is_refused_at_once_with_a_time_to_retry() -> None:
    """A row takes 2.5/16 s. Another request adds at most its remaining time and at most the new request's own time."""
    of, net = gated()
    with open_batcher(of, backlog_seconds=20.0) as batcher:
        first = batcher.submit(of.family.chain("ancestral", 20), 16, seed=0)  # 50 s
        until(lambda: net.come == 1)
        with pytest.raises(BusyError, match="50 seconds of work come before it; the limit is 20 seconds") as busy:
            batcher.submit(of.family.chain("ancestral", 20), 17, seed=0)
        assert busy.value.retry_after_seconds == pytest.approx(30.0)
        small = [batcher.submit(of.family.chain("ddim", 20), 2, seed=i) for i in range(3)]  # 6.25 s each
        with pytest.raises(BusyError, match="25 seconds"):
            batcher.submit(of.family.chain("ddim", 20), 2, seed=9)
        for handle in (first, *small):
            handle.cancel_request()
        net.gate.release(1)
        until(lambda: batcher.admission.pending == 0)
        last = batcher.submit(of.family.chain("ddim", 2), 1, seed=0)
        net.gate.release(2)
        assert last.future.result(20) is not None


def test_closing_finishes_accepted_requests_and_refuses_new_ones() -> None:
    of = model("ddpm")
    batcher = Batcher(of, CHEAP, CPU, backlog_seconds=1e9)
    handles = [batcher.submit(of.family.chain("ancestral", 20), 5, seed=seed) for seed in range(4)]
    task = batcher.submit_callable(lambda net: [net(torch.zeros(1, 1, 4, 4), torch.zeros(1)) for _ in range(5)], 5)
    batcher.close()
    assert all(handle.future.result(0).shape[0] == 5 for handle in handles) and len(task.future.result(0)) == 5
    with pytest.raises(BusyError):
        batcher.submit(of.family.chain("ddim", 2), 1, seed=0)
    assert not batcher._thread.is_alive()


def test_a_long_request_neither_delays_a_short_one_nor_starves() -> None:
    of, net = gated()
    with open_batcher(of, LatencyProfile((1, 2, 4, 8), (1.0, 1.5, 2.5, 4.5))) as batcher:
        long = batcher.submit(of.family.chain("ancestral", 20), 64, seed=0)
        net.gate.release(3)
        until(lambda: net.come == 4)
        short = batcher.submit(of.family.chain("ddim", 5), 1, seed=0)
        before = batcher.admission.evaluations
        net.gate.release(1 + 5)
        assert short.future.result(20) is not None
        assert net.sizes[:4] == [8] * 4 and net.sizes[4:9] == [3] * 5  # 1.0 s, at most 2.0 s beside another
        assert batcher.admission.evaluations > before + 8 + 5
        net.gate.release(1000)
        assert np.array_equal(long.future.result(30).shape, (64, 1, 4, 4))
