"""Fairness of the batcher: keys share the net equally, and so do the requests of one key, for every verb."""

import threading
import time
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_ray.engine.inference.batcher import BusyError, LatencyProfile, RequestHandle, fair_shares
from gen_ray.engine.inference.batcher.admission_control import MAX_REQUESTS_PER_KEY, AdmissionControl
from gen_ray.engine.inference.batcher.fair_queue import FairQueue
from tests.engine.test_batcher import CHEAP, gated, open_batcher, until
from tests.engine.tiny_models import images, model

FLAT = LatencyProfile((1, 2, 4, 8), (1.0, 1.01, 1.02, 1.03))


class Waiter:
    def __init__(self, key: str) -> None:
        self.handle = RequestHandle(key=key)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 5))
def test_keys_and_their_requests_get_equal_time(sizes: list[int], late: int) -> None:
    """One request is served at a time; each second counts the same, and a key that joins late does not catch up."""
    fair = FairQueue()
    asking = [Waiter(str(key)) for key, size in enumerate(sizes) for _ in range(size)]
    for _ in range(late):
        fair.charge([fair.ordered(asking)[0].handle], 1.0)
    newcomer = Waiter("late")
    asking.append(newcomer)
    served: Counter[Waiter] = Counter()
    rounds = 60 * (len(sizes) + 1)
    for _ in range(rounds):
        first = fair.ordered(asking)[0]
        fair.charge([first.handle], 1.0)
        served[first] += 1
    by_key = Counter(
        {key: sum(n for one, n in served.items() if one.handle.key == key) for key in map(str, range(len(sizes)))}
    )
    by_key["late"] = served[newcomer]
    assert max(by_key.values()) - min(by_key.values()) <= 2 + late
    for key, size in enumerate(sizes):
        mine = [served[one] for one in asking if one.handle.key == str(key)]
        assert max(mine) - min(mine) <= 2 + late and len(mine) == size


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=12), st.integers(0, 100))
def test_shares_are_max_min_fair_between_keys(requests: list[tuple[str, int]], room: int) -> None:
    keys, demands = [key for key, _ in requests], [rows for _, rows in requests]
    given = fair_shares.max_min_shares_by_key(keys, demands, room)
    assert sum(given) == min(room, sum(demands)) and all(g <= w for g, w in zip(given, demands, strict=True))
    got, asks = Counter[str](), Counter[str]()
    for key, rows, demand in zip(keys, given, demands, strict=True):
        got[key] += rows
        asks[key] += demand
    for key in asks:
        if got[key] < asks[key]:
            assert all(got[other] <= got[key] + 1 for other in asks)


def test_many_requests_of_one_key_get_no_more_rows_than_one_of_another() -> None:
    of, net = gated()
    with open_batcher(of, FLAT) as batcher:
        many = [batcher.submit(of.family.chain("ancestral", 20), 8, seed=i, key="greedy") for i in range(10)]
        net.gate.release(1)
        until(lambda: net.come == 2)
        one = batcher.submit(of.family.chain("ddim", 10), 4, seed=0, key="modest")
        net.gate.release(1 + 10)
        assert one.future.result(20).shape[0] == 4  # 4 of 8 rows in each of 10 ticks
        assert not any(handle.future.done() for handle in many)
        for handle in many:
            handle.cancel_request()
        net.gate.release(1000)


def test_padded_requests_of_one_key_do_not_delay_another() -> None:
    of, net = gated()
    with open_batcher(of, FLAT) as batcher:
        many = [
            batcher.submit(of.family.chain("ancestral", 20), 8, seed=i, key="greedy", padded=True) for i in range(9)
        ]
        until(lambda: net.come == 1)
        one = batcher.submit(of.family.chain("ddim", 10), 2, seed=0, key="modest")
        net.gate.release(100)
        assert one.future.result(20) is not None
        until(lambda: net.come == 101)
        assert len([size for size in net.sizes if size == 2]) == 10 and net.sizes[:30].count(2) >= 8
        for handle in many:
            handle.cancel_request()
        net.gate.release(1000)


LONG = 400


@pytest.mark.parametrize("short", ["request", "task"])
def test_many_long_auxiliary_tasks_do_not_delay_a_short_request(short: str) -> None:
    """Eight likelihoods of 400 evaluations beside a request of 5: the short request has a row in every tick."""
    of, net = gated()
    x = torch.zeros(1, 1, 4, 4)

    def work(times: int) -> Any:
        return lambda shared: [shared(x, torch.full((1,), 0.5)) for _ in range(times)]

    with open_batcher(of, CHEAP) as batcher:
        long = [batcher.submit_callable(work(LONG), LONG, reduced_precision=True) for _ in range(8)]
        net.gate.release(20)
        until(lambda: net.come >= 20)
        if short == "request":
            request = batcher.submit(of.family.chain("ddim", 5), 1, seed=0)
        else:
            request = batcher.submit_callable(work(5), 5, reduced_precision=True)
        net.gate.release(100)
        assert request.future.result(20) is not None
        assert not any(handle.future.done() for handle in long)
        for handle in long:
            handle.cancel_request()
        net.gate.release(10_000)


def test_auxiliary_tasks_with_gradients_alternate_and_leave_room_for_others() -> None:
    of = model("ddpm")
    lock, at_once, most, done = threading.Lock(), 0, 0, Counter[int]()

    class Timed(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            nonlocal at_once, most
            if x.requires_grad:
                with lock:
                    at_once += 1
                    most = max(most, at_once)
                time.sleep(0.005)
                with lock:
                    at_once -= 1
            out: torch.Tensor = of.net(x, t)
            return out

    from dataclasses import replace

    def slopes(number: int, times: int) -> Any:
        def work(shared: Any) -> int:
            for _ in range(times):
                x = images(1).float().requires_grad_()
                with torch.enable_grad():
                    torch.autograd.grad(shared(x, torch.ones(1)).sum(), x)
                done[number] += 1
            return times

        return work

    with open_batcher(replace(of, net=Timed()), CHEAP) as batcher:
        long = [batcher.submit_callable(slopes(number, 1000), 1000, key="greedy") for number in range(6)]
        until(lambda: min(done[number] for number in range(6)) >= 3)
        counts = [done[number] for number in range(6)]
        short = batcher.submit_callable(slopes(6, 5), 5, key="modest")
        request = batcher.submit(of.family.chain("ddim", 20), 1, seed=0, key="third")
        before = sum(done.values())
        assert short.future.result(20) == 5 and request.future.result(20) is not None
        after = sum(done.values()) - before - 5
        for handle in long:
            handle.cancel_request()
        assert all(isinstance(handle.future.exception(20), Exception) for handle in long)
        assert batcher.admission.requests == 0
    assert most == 1 and max(counts) - min(counts) <= 2
    assert after <= 12, "keys alternate: five evaluations of one, about five of the other"


def test_a_waiting_auxiliary_task_is_woken_when_cancelled_or_late() -> None:
    of = model("ddpm")
    hold = threading.Event()

    def blocking(shared: Any) -> None:
        x = images(1).float().requires_grad_()
        with torch.enable_grad():
            shared(x, torch.ones(1))
        assert hold.wait(20)

    def asking(shared: Any) -> Any:
        with torch.enable_grad():
            return shared(images(1).float().requires_grad_(), torch.ones(1))

    with open_batcher(of) as batcher:
        first = batcher.submit_callable(blocking, 1)
        until(lambda: batcher._turns._granted is not None)
        late = batcher.submit_callable(asking, 1, deadline=time.monotonic() + 0.05)
        left = batcher.submit_callable(asking, 1)
        until(lambda: len(batcher._turns.waiting) == 2)
        left.cancel_request()
        time.sleep(0.06)
        # cancelled and late tasks are dropped before the next evaluation
        batcher.submit(of.family.chain("ddim", 2), 1, seed=0).future.result(20)
        assert late.future.exception(20) is not None and left.future.exception(20) is not None
        hold.set()
        assert first.future.result(20) is None


def test_admission_counts_the_work_before_a_request_by_key() -> None:
    """A row takes one second. The greedy key reaches its own limit; every other key keeps its share."""
    admission = AdmissionControl(LatencyProfile((1,), (1.0,)), backlog_limit=20.0)
    for _ in range(3):
        admission.admit(RequestHandle(key="greedy"), 10)
    with pytest.raises(BusyError, match="30 seconds"):
        admission.admit(RequestHandle(key="greedy"), 10)
    admission.admit(RequestHandle(key="modest"), 10)  # behind 10 seconds of the other key
    with pytest.raises(BusyError, match="30 seconds"):  # its own 10, and 20 of the other key
        admission.admit(RequestHandle(key="modest"), 10)
    admission.admit(RequestHandle(key="modest"), 2)
    assert admission.by_key == {"greedy": (3, 30.0), "modest": (2, 12.0)}


def test_a_limit_of_requests_per_key_leaves_room_for_others() -> None:
    admission = AdmissionControl(CHEAP, backlog_limit=1e9)
    for _ in range(MAX_REQUESTS_PER_KEY):
        admission.admit(RequestHandle(key="greedy"), 1)
    with pytest.raises(BusyError, match=f"{MAX_REQUESTS_PER_KEY} of this key"):
        admission.admit(RequestHandle(key="greedy"), 1)
    admission.admit(RequestHandle(key="modest"), 1)
