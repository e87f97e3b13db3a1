"""The batcher against generate: whatever comes and goes, everyone gets what is theirs alone."""

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
from gen_ray.family import Known
from tests.engine.toys import CPU, images, model
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
    """A net whose forwards wait to be let through, and are counted."""

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
def test_shares_are_max_min_fair(wanted: list[int], room: int) -> None:
    given = fair_shares.max_min_shares(wanted, room)
    assert sum(given) == min(room, sum(wanted)) and all(g <= w for g, w in zip(given, wanted, strict=True))
    for mine, want in zip(given, wanted, strict=True):
        if mine < want:  # who wants more has no less than another but for the indivisible one
            assert all(other <= mine + 1 for other in given)


def test_a_small_request_beside_a_large_one_waits_for_ticks_of_twice_its_own() -> None:
    steep = LatencyProfile((1, 2, 4, 8), (1.0, 1.9, 3.6, 6.8))
    assert fair_shares.batch_size([64], steep) == steep.best
    assert fair_shares.batch_size([64, 1], steep) == 2
    assert fair_shares.batch_size([64, 1, 1, 1], steep) == 4
    assert fair_shares.batch_size([], steep) == 0


def test_costs_lie_on_the_line_between_what_was_measured() -> None:
    assert CHEAP.of(3) == pytest.approx(1.2) and CHEAP.of(32) == pytest.approx(5.0) and CHEAP.of(0) == 0
    assert CHEAP.best == 16 and CHEAP.most(0.1) == 1 and CHEAP.most(1.21) == 3 and CHEAP.most(99) == 16
    assert LatencyProfile((1, 2, 4), (1.0, 2.0, 4.0)).best == 1


def test_costs_are_measured_on_the_default_sampler() -> None:
    costs = measure(model("ddpm"), CPU)
    assert costs.rows[0] == 1 and list(costs.seconds) == sorted(costs.seconds) and costs.row_seconds > 0


# ---- what a request gets ------------------------------------------------------------------------------------------


@everywhere
def test_samples_and_completions_together_are_what_they_are_alone(case: Case) -> None:
    """Every sampler and imputer that is a table, several requests of each at once, one batch too small for all."""
    of = served(case)
    family, x = of.family, case.x(2)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask.view(2, -1)[:, : case.spec.dims // 2] = True
    held = Known(known=x, mask=mask)
    chains = [(family.chain(name), None) for name, about in family.samplers().items() if not about.adaptive]
    chains += [(family.impute(name), held) for name in family.imputers()]
    with open_batcher(of) as batcher:
        tickets = [batcher.walk(chain, 2, seed=seed, held=held) for seed, (chain, held) in enumerate(chains)]
        found = [ticket.future.result(60) for ticket in tickets]
    for seed, ((chain, held), samples) in enumerate(zip(chains, found, strict=True)):
        alone = generate(of.net, chain, 2, seed=seed, device=CPU, held=held)
        assert samples.dtype == alone.dtype
        assert near(samples, alone, case), seed
        if held is not None:
            assert torch.equal(samples[mask], x[mask].to(samples.dtype))


def near(a: Tensor, b: Tensor, case: Case) -> bool:
    """One grey level apart at most; categories, which have no near, are equal but for a rounding's rare say."""
    if case.family == "discrete":
        return float((a != b).float().mean()) <= 0.25
    return int((a.int() - b.int()).abs().max()) <= 1


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_comes_and_goes_everyone_gets_their_own(data: st.DataObject) -> None:
    """Random samplers, steps, numbers, seeds, delays, cancellations, padded or not: the right result, and no leak."""
    of = model("ddpm")
    asked = data.draw(
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
        tickets = []
        for name, steps, n, seed, fixed, fate, delay in asked:
            time.sleep(delay)
            deadline = time.monotonic() + delay if fate == "late" else None
            tickets.append(batcher.walk(of.family.chain(name, steps), n, seed=seed, fixed=fixed, deadline=deadline))
            if fate == "gives up":
                tickets[-1].cancel_request()
        wait([ticket.future for ticket in tickets], timeout=60)
        assert batcher.ledger.pending == 0 and batcher.ledger.requests == 0
        assert not batcher._walking.walks and not any(c.rows for c in batcher._walking._cohorts.values())
    for (name, steps, n, seed, _, fate, _), ticket in zip(asked, tickets, strict=True):
        error = ticket.future.exception()
        if error is not None:
            assert (
                isinstance(error, CancelledError if fate == "gives up" else DeadlineExceededError) and fate != "stays"
            )
            continue
        alone = generate(of.net, of.family.chain(name, steps), n, seed=seed, device=CPU)
        assert int((ticket.future.result().int() - alone.int()).abs().max()) <= 1


def test_padded_forwards_give_the_same_bytes_in_any_company() -> None:
    of = model("ddpm-dropout")
    chain = of.family.chain("ancestral", 6)
    found = set()
    for company in range(12):
        with open_batcher(of) as batcher:
            others = [
                batcher.walk(of.family.chain("ddim", 3 + i), 1 + i, seed=9 + i, fixed=bool(company % 2))
                for i in range(company % 5)
            ]
            needle = batcher.walk(chain, 2, seed=7, fixed=True)
            found.add(needle.future.result(60).numpy().tobytes())
            wait([other.future for other in others], timeout=60)
    assert len(found) == 1


def test_looks_show_what_is_decided_and_what_is_under_way() -> None:
    of, seen = model("tokens"), []
    with open_batcher(of, LatencyProfile((1, 2), (1.0, 1.1))) as batcher:
        chain = of.family.chain("first_hitting", 16)
        ticket = batcher.walk(chain, 3, seed=1, watch=seen.append, looks=5)
        final = ticket.future.result(60)
    assert 3 <= len(seen) <= 5 and all(isinstance(look, Preview) and look.samples.shape == final.shape for look in seen)
    assert [look.done for look in seen] == sorted({look.done for look in seen}) and seen[-1].done < seen[-1].total
    assert (seen[0].samples == -1).any()
    for look in seen:  # what is shown of an unmasking chain stays
        decided = look.samples >= 0
        assert torch.equal(look.samples[decided], final[decided].int())


# ---- guests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ddpm", "ddpm-learned", "vae", "tokens"])
def test_a_score_by_the_batcher_is_the_score(family: str) -> None:
    of, x = model(family), images(5)
    alone = scoring.score(of, x, effort=6, repeats=2, device=CPU)
    with open_batcher(of) as batcher:
        busy = [batcher.walk(of.experiment.chain(of.family), 4, seed=seed) for seed in range(3)]

        def work(net: Any) -> scoring.InstanceScores:
            return scoring.score(replace(of, net=net), x, effort=6, repeats=2, device=CPU)

        scores = batcher.submit_callable(work, 60).future.result(60)
        wait([ticket.future for ticket in busy], timeout=60)
    assert scores.kind == alone.kind and scores.nfe == alone.nfe
    torch.testing.assert_close(scores.bits_per_dim, alone.bits_per_dim, rtol=1e-5, atol=1e-5)


def test_guests_and_walks_share_forwards() -> None:
    of, net = gated()
    with open_batcher(of) as batcher:
        chain = of.family.chain("ddim", 4)
        walk = batcher.walk(chain, 2, seed=0)
        x = torch.zeros(3, 1, 4, 4)
        until(lambda: net.come == 1)
        guest = batcher.submit_callable(lambda shared: shared(x, torch.full((3,), 0.5)), 3, reduced=True)
        until(lambda: batcher._inbox.qsize() == 1)
        net.gate.release(10)
        assert walk.future.result(20).shape == (2, 1, 4, 4)
        torch.testing.assert_close(guest.future.result(20), net.net(x, torch.full((3,), 0.5)))
    assert net.sizes == [2, 5, 2, 2]


def test_a_guest_in_need_of_gradients_evaluates_the_net_itself() -> None:
    of = model("ddpm")

    def slope(net: Any) -> Tensor:
        x = torch.zeros(1, 1, 4, 4, requires_grad=True)
        with torch.enable_grad():
            return torch.autograd.grad(net(x, torch.ones(1)).sum(), x)[0]

    with open_batcher(of) as batcher:
        torch.testing.assert_close(batcher.submit_callable(slope, 1).future.result(20), slope(of.net))


def test_what_a_guest_raises_is_its_own() -> None:
    of = model("ddpm")
    with open_batcher(of) as batcher:
        walk = batcher.walk(of.family.chain("ddim", 20), 2, seed=0)
        wrong = batcher.submit_callable(lambda net: net(torch.zeros(1, 7, 4, 4), torch.zeros(1)), 1)
        assert "mat1 and mat2" in str(wrong.future.exception(20))
        assert batcher.submit_callable(lambda net: 1 // 0, 1).future.exception(20).__class__ is ZeroDivisionError
        assert walk.future.result(20).shape[0] == 2 and batcher.well
        assert batcher.ledger.pending == 0


# ---- coming to nothing --------------------------------------------------------------------------------------------


def until(true: Any) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_who_gives_up_is_gone_before_the_next_tick() -> None:
    of, net = gated()
    with open_batcher(of) as batcher:
        walk = batcher.walk(of.family.chain("ancestral", 20), 3, seed=0)
        net.gate.release(5)
        until(lambda: net.come == 6)
        walk.cancel_request()
        net.gate.release(1)  # the one that had begun
        assert isinstance(walk.future.exception(20), CancelledError)
        other = batcher.walk(of.family.chain("ddim", 2), 1, seed=0)
        net.gate.release(2)
        assert other.future.result(20) is not None
    assert net.sizes == [3] * 6 + [1] * 2


def test_a_guest_that_gives_up_is_woken() -> None:
    of, net = gated()
    with open_batcher(of) as batcher:
        busy = batcher.walk(of.family.chain("ddim", 2), 1, seed=0)
        guest = batcher.submit_callable(
            lambda shared: [shared(torch.zeros(1, 1, 4, 4), torch.zeros(1)) for _ in range(99)], 99
        )
        guest.cancel_request()
        net.gate.release(3)
        assert isinstance(guest.future.exception(20), CancelledError) and busy.future.result(20) is not None


def test_not_finite_is_told_and_hurts_nobody_else() -> None:
    of, net = gated()
    net.gate.release(1000)
    with open_batcher(of) as batcher:
        with torch.no_grad():
            weight = next(net.parameters())
            kept = weight.clone()
            weight.fill_(torch.nan)
        with pytest.raises(NotFiniteError):
            batcher.walk(of.family.chain("ddim", 3), 2, seed=0).future.result(20)
        with torch.no_grad():
            weight.copy_(kept)
        assert batcher.walk(of.family.chain("ddim", 3), 2, seed=0).future.result(20) is not None and batcher.well


def test_a_net_that_raises_is_told_to_those_it_concerns_and_the_batcher_says_it_is_not_well() -> None:
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
            assert batcher.well == (count < 3)
            with pytest.raises(RuntimeError, match="out of memory"):
                batcher.walk(of.family.chain("ddim", 3), 2, seed=0).future.result(20)
        assert not batcher.well
        net.broken = False
        assert batcher.walk(of.family.chain("ddim", 3), 2, seed=0).future.result(20) is not None
        assert batcher.well and batcher.ledger.pending == 0


def test_too_much_is_refused_at_once_and_says_when_to_come_again() -> None:
    """A row takes 2.5/16 s. Others delay a request by what they have left, but by no more than it takes itself."""
    of, net = gated()
    with open_batcher(of, backlog_seconds=20.0) as batcher:
        first = batcher.walk(of.family.chain("ancestral", 20), 16, seed=0)  # 50 s
        until(lambda: net.come == 1)
        with pytest.raises(BusyError, match="50 seconds of work come before it; the most is 20") as busy:
            batcher.walk(of.family.chain("ancestral", 20), 17, seed=0)
        assert busy.value.retry_after_seconds == pytest.approx(30.0)
        small = [batcher.walk(of.family.chain("ddim", 20), 2, seed=i) for i in range(3)]  # 6.25 s each
        with pytest.raises(BusyError, match="25 seconds"):
            batcher.walk(of.family.chain("ddim", 20), 2, seed=9)
        for ticket in (first, *small):
            ticket.cancel_request()
        net.gate.release(1)
        until(lambda: batcher.ledger.pending == 0)
        last = batcher.walk(of.family.chain("ddim", 2), 1, seed=0)
        net.gate.release(2)
        assert last.future.result(20) is not None


def test_closing_finishes_what_was_asked_and_takes_nothing_more() -> None:
    of = model("ddpm")
    batcher = Batcher(of, CHEAP, CPU, backlog_seconds=1e9)
    tickets = [batcher.walk(of.family.chain("ancestral", 20), 5, seed=seed) for seed in range(4)]
    guest = batcher.submit_callable(lambda net: [net(torch.zeros(1, 1, 4, 4), torch.zeros(1)) for _ in range(5)], 5)
    batcher.close()
    assert all(ticket.future.result(0).shape[0] == 5 for ticket in tickets) and len(guest.future.result(0)) == 5
    with pytest.raises(BusyError):
        batcher.walk(of.family.chain("ddim", 2), 1, seed=0)
    assert not batcher._thread.is_alive()


def test_a_long_request_neither_holds_up_a_short_one_nor_starves() -> None:
    of, net = gated()
    with open_batcher(of, LatencyProfile((1, 2, 4, 8), (1.0, 1.5, 2.5, 4.5))) as batcher:
        long = batcher.walk(of.family.chain("ancestral", 20), 64, seed=0)
        net.gate.release(3)
        until(lambda: net.come == 4)
        short = batcher.walk(of.family.chain("ddim", 5), 1, seed=0)
        before = batcher.ledger.evaluations
        net.gate.release(1 + 5)
        assert short.future.result(20) is not None
        assert net.sizes[:4] == [8] * 4 and net.sizes[4:9] == [3] * 5  # 1.0 alone, so at most 2.0 beside another
        assert batcher.ledger.evaluations > before + 8 + 5
        net.gate.release(1000)
        assert np.array_equal(long.future.result(30).shape, (64, 1, 4, 4))
