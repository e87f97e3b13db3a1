"""Fair shares of a cluster: divided by priority, without starvation, and never more than the resources."""

import itertools
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_ray.cluster.jobs.fair_shares import MEMBERS, PATIENCE_SECONDS, ResourceRequest, Shares
from pipelines import queue as command


class Cluster:
    """Fair shares with a clock and with members whose trials end when the test ends them."""

    def __init__(self, **room: float) -> None:
        self.now, self.room, self.shares = 0.0, room, Shares(lambda: self.now)
        self.running, self.requests = Counter[str](), dict[str, dict[str, Any]]()

    def member(self, name: str, priority: float = 1, **needs: float) -> None:
        self.requests[name] = {"name": name, "priority": priority, "needs": needs}

    def ask(self, name: str) -> bool:
        granted = self.shares.ask(ResourceRequest(**self.requests[name], running=self.running[name]), self.room)
        self.running[name] += granted
        return granted

    def round(self) -> None:
        """Let all members ask until no request is granted."""
        self.now += 0.5
        while sum(self.ask(name) for name in self.requests):
            pass

    def end(self, name: str) -> None:
        self.running[name] -= 1
        self.shares.tell(name, self.running[name])

    def in_use(self, kind: str) -> float:
        return sum(self.running[name] * request["needs"].get(kind, 0) for name, request in self.requests.items())


def test_priorities_divide_a_busy_cluster() -> None:
    cluster = Cluster(CPU=12)
    cluster.member("a", CPU=1)
    cluster.round()
    assert cluster.running["a"] == 12, "the only member has everything"
    cluster.member("b", CPU=1)
    cluster.member("c", priority=2, CPU=1)
    for _ in range(40):
        cluster.round()
        for name in list(cluster.running):
            if cluster.running[name]:
                cluster.end(name)
        cluster.round()
    assert cluster.running == {"a": 3, "b": 3, "c": 6}


def test_a_member_with_large_needs_is_not_overtaken_forever() -> None:
    cluster = Cluster(CPU=4)
    cluster.member("small", CPU=1)
    cluster.round()
    cluster.member("large", CPU=4)
    for _ in range(4):
        cluster.round()
        assert not cluster.running["large"]
        cluster.end("small")
    cluster.round()
    assert cluster.running == {"small": 0, "large": 1}


def test_a_single_place_alternates_by_priority() -> None:
    cluster, had = Cluster(CPU=1), Counter[str]()
    cluster.member("a", CPU=1)
    cluster.member("b", priority=3, CPU=1)
    for _ in range(40):
        cluster.round()
        [name] = [name for name, n in cluster.running.items() if n]
        had[name] += 1
        cluster.end(name)
        cluster.now += 0.1
    assert had == {"a": 11, "b": 29}, "a asked before b joined"


def test_a_member_too_large_for_the_cluster_blocks_no_other() -> None:
    cluster = Cluster(CPU=4)
    cluster.member("huge", CPU=5)
    cluster.member("small", CPU=1)
    cluster.round()
    assert cluster.running == {"huge": 0, "small": 4}


def test_a_member_that_stopped_asking_blocks_no_other() -> None:
    cluster = Cluster(CPU=2)
    for name in ("a", "b"):
        cluster.member(name, CPU=2)
    assert cluster.ask("a") and not cluster.ask("b")
    cluster.end("a")
    assert not cluster.ask("a"), "b is next"
    cluster.now += 2 * PATIENCE_SECONDS
    assert cluster.ask("a")


def test_a_satisfied_member_blocks_no_other() -> None:
    cluster = Cluster(CPU=4)
    cluster.member("modest", CPU=1)
    cluster.requests["modest"]["most"] = 1
    cluster.member("other", CPU=1)
    assert cluster.ask("other") and cluster.ask("modest") and cluster.ask("other")
    assert not cluster.shares.waits(cluster.shares.members["modest"])
    cluster.round()
    assert cluster.running["other"] == 3


def test_members_that_left_do_not_count_and_the_queue_is_limited() -> None:
    cluster = Cluster(CPU=2)
    for number in range(MEMBERS):
        cluster.member(str(number), CPU=1)
        cluster.ask(str(number))
    cluster.member("late", CPU=1)
    assert not cluster.ask("late") and "late" not in cluster.shares.members
    for number in range(MEMBERS):
        cluster.shares.leave(str(number))
    assert cluster.ask("late")


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_grants_never_exceed_the_resources_and_every_member_gets_some(
    demands: list[tuple[int, int, float]], chance: Any
) -> None:
    cluster, had = Cluster(CPU=4, GPU=2), set[str]()
    for number, (cpus, gpus, priority) in enumerate(demands):
        cluster.member(str(number), priority, CPU=cpus, GPU=gpus)
    for _ in range(30):
        cluster.round()
        assert cluster.in_use("CPU") <= 4 and cluster.in_use("GPU") <= 2
        had |= {name for name, n in cluster.running.items() if n}
        busy = [name for name, n in cluster.running.items() if n]
        cluster.end(chance.choice(busy))
    assert had == set(cluster.requests)


def test_a_lost_queue_learns_from_the_requests() -> None:
    cluster = Cluster(CPU=3)
    cluster.member("a", CPU=1)
    cluster.round()
    cluster.shares = Shares(lambda: cluster.now)
    assert not cluster.ask("a") and cluster.running["a"] == 3


@pytest.mark.parametrize("priorities", list(itertools.permutations([1, 2, 4])))
def test_members_without_trials_come_first_by_priority(priorities: tuple[int, ...]) -> None:
    cluster = Cluster(CPU=1)
    cluster.member("busy", CPU=1)
    assert cluster.ask("busy")
    for priority in priorities:
        cluster.member(str(priority), priority, CPU=1)
        assert not cluster.ask(str(priority))
    cluster.end("busy")
    assert [name for name in ("busy", "1", "2", "4") if cluster.ask(name)] == ["4"]


def test_a_waiting_member_states_the_reason() -> None:
    cluster = Cluster(CPU=8, GPU=1)
    cluster.member("first", CPU=6)
    cluster.member("second", CPU=4, GPU=1)
    cluster.member("large", CPU=16)
    assert cluster.ask("first") and not cluster.ask("second") and not cluster.ask("large")

    def waits_for(name: str) -> str:
        return cluster.shares.waits_for(cluster.shares.members[name])

    assert waits_for("second") == "4 CPU (2 of 8 free)" and waits_for("large") == "16 CPU (2 of 8 free)"
    cluster.end("first")
    assert waits_for("second") == "its turn"
    cluster.now += PATIENCE_SECONDS
    assert waits_for("first") == waits_for("second") == ""


def test_the_command_shows_why_a_member_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = ResourceRequest(name="digits-1", priority=1, needs={"CPU": 4}, running=0)
    monkeypatch.setattr("gen_ray.cluster.nodes.connect.connected", lambda _: nullcontext())
    monkeypatch.setattr("gen_ray.cluster.jobs.queue.members", lambda: [(waiting, "4 CPU (2 of 8 free)", 90.0)])
    monkeypatch.setattr("gen_ray.cluster.jobs.queue.reserved", lambda: {"CPU": 1.0})
    command.queue()
    out = capsys.readouterr().out
    assert "reserved by other applications: 1 CPU" in out
    assert all(word in out for word in ("waits for", "digits-1", "4 CPU (2 of 8 free)", "1.5"))
