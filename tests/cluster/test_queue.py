"""The queue of a shared cluster, which grants resources to trainings and sweeps."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import ray
from ray.core.generated.common_pb2 import Bundle
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData
from ray.util import get_placement_group, remove_placement_group

from gen_ray.cluster.jobs.queue import NAME, ClusterQueueSlot, QueueSlot, members, queue_slot, reserved
from gen_ray.cluster.jobs.reservations import total
from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.cluster.tracking import logger_actor
from gen_ray.cluster.training.train import train
from gen_ray.errors import UserError
from gen_ray.tracking.runs import rows
from gen_ray.tracking.store import Store
from tests.cluster.test_sweep import plan

WAIT_SECONDS = 8.0


@pytest.fixture
def shared(cluster: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Treat the session's Ray as a shared cluster with its own queue."""
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    yield
    ray.kill(ray.get_actor(NAME, namespace=NAME))


@pytest.fixture
def someone(tmp_path: Path) -> Any:
    """Return the logger actor of another driver."""
    return logger_actor.start(None, tmp_path)


def becomes(true: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def granted(slot: QueueSlot, running: int = 0) -> bool:
    slot.tell(running)  # otherwise it would ask only every half second
    return slot.granted(running)


@pytest.mark.usefixtures("shared")
def test_the_resources_of_a_dead_driver_are_released(someone: Any, tmp_path: Path) -> None:
    mine = logger_actor.start(None, tmp_path)
    with queue_slot("theirs", 1, {"CPU": 4.0}, someone) as theirs, queue_slot("mine", 2, {"CPU": 4.0}, mine) as slot:
        assert granted(theirs) and not granted(slot)
        assert [(request.name, request.running, bool(waits)) for request, waits, _ in members()] == [
            ("theirs", 1, False),
            ("mine", 0, True),
        ]
        ray.kill(someone)
        assert becomes(lambda: granted(slot))
        assert [request.name for request, _, _ in members()] == ["mine"]
    assert becomes(lambda: not members())


OTHERS = """
import sys, ray
from ray.util.placement_group import placement_group
ray.init(address=sys.argv[1], namespace=sys.argv[2], log_to_driver=False)
@ray.remote
class Replica:
    pass
ray.get(Replica.options(name="plain", lifetime="detached", num_cpus=1).remote().__ray_ready__.remote())
ray.get(placement_group([{"CPU": 1}, {"CPU": 1}], name="group", lifetime="detached").ready())
"""


@pytest.mark.usefixtures("shared")
def test_resources_reserved_by_other_applications_are_not_granted(someone: Any) -> None:
    with queue_slot("large", 1, {"CPU": 2.0}, someone) as large, queue_slot("small", 1, {"CPU": 1.0}, someone) as small:
        arguments = [os.environ["RAY_ADDRESS"], ray.get_runtime_context().namespace]
        subprocess.run([sys.executable, "-c", OTHERS, *arguments], check=True, timeout=60)
        assert becomes(lambda: reserved().get("CPU") == 3.0)
        assert not granted(large) and granted(small), "one core of four is left"
        small.tell(0)
        ray.kill(ray.get_actor("plain"))
        assert becomes(lambda: granted(large))
        remove_placement_group(get_placement_group("group"))
        assert becomes(lambda: "CPU" not in reserved())


def test_an_actor_counts_with_its_group_and_a_waiting_group_does_not_count() -> None:
    mine, theirs = b"\1\0\0\0", b"\2\0\0\0"
    actors = [
        ActorTableData(job_id=theirs, required_resources={"CPU": 1.0, "GPU": 0.5}),
        ActorTableData(job_id=theirs, required_resources={"CPU": 8.0}, placement_group_id=b"\1" * 18),
        ActorTableData(job_id=theirs, required_resources={"CPU": 0.0}, placement_group_id=b"\xff" * 18),
        ActorTableData(job_id=mine, required_resources={"CPU": 16.0}),
    ]
    bundles = [Bundle(unit_resources={"CPU": 2.0}), Bundle(unit_resources={"CPU": 1.0, "memory": 5.0})]
    groups = [
        PlacementGroupTableData(creator_job_id=theirs, state=PlacementGroupTableData.CREATED, bundles=bundles),
        PlacementGroupTableData(creator_job_id=theirs, state=PlacementGroupTableData.PENDING, bundles=bundles),
        PlacementGroupTableData(creator_job_id=mine, state=PlacementGroupTableData.CREATED, bundles=bundles),
    ]
    assert total({mine.hex()}, actors, groups) == {"CPU": 4.0, "GPU": 0.5, "memory": 5.0}


@pytest.mark.usefixtures("shared")
def test_a_lost_queue_restarts_and_learns_its_members(someone: Any) -> None:
    with queue_slot("a", 1, {"CPU": 2.0}, someone, most=9) as slot:
        assert isinstance(slot, ClusterQueueSlot)
        assert granted(slot) and granted(slot, 1)
        ray.kill(ray.get_actor(NAME, namespace=NAME), no_restart=False)
        assert not granted(slot, 2)
        assert [(request.running, bool(waits)) for request, waits, _ in members()] == [(2, True)]
        assert becomes(lambda: granted(slot, 1))


@pytest.mark.usefixtures("shared")
def test_a_sweep_uses_the_resources_that_others_leave(someone: Any, storage: Path, tmp_path: Path) -> None:
    space = {"family.latent_dim": {"choice": [2, 3, 4]}}
    found, most = plan(tmp_path, storage, "what-is-left", space=space), list[float]()
    with queue_slot("other", 1, {"CPU": 3.0}, someone) as other:
        assert granted(other)
        done = sweep(found, watch=lambda *_: most.append(max(request.running for request, _, _ in members())))
    assert [result.state for result in done.results] == ["finished"] * 3
    assert len(most) == 3 and set(most) == {1}, "one core was left"


@pytest.mark.usefixtures("shared")
def test_a_training_waits_until_its_resources_are_granted(someone: Any, storage: Path, tmp_path: Path) -> None:
    experiment = plan(tmp_path, storage, "its-turn", space={"family.latent_dim": {"choice": [2]}}).first
    with queue_slot("other", 1, {"CPU": 4.0}, someone) as other:
        assert granted(other)
        began = time.monotonic()
        freed = Timer(WAIT_SECONDS, lambda: other.tell(0))
        freed.start()
        step_seconds = list[float]()
        train(experiment, watch=lambda done, *_: step_seconds.append(time.monotonic() - began) if done else None)
    assert min(step_seconds) > WAIT_SECONDS, "no step before the resources were free"


def test_a_local_ray_has_no_queue() -> None:
    with pytest.raises(UserError, match="RAY_ADDRESS: is not set"):
        members()
    with queue_slot("a", 1, {"CPU": 1e9}, None) as slot:
        assert slot.granted(0) and not slot.shared


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_gpus_that_the_cluster_lacks_are_refused_before_a_run_starts(verb: str, storage: Path, tmp_path: Path) -> None:
    settings = {"scaling": {"use_gpu": True}}
    name = f"no-gpus-to-{verb}"
    found = plan(tmp_path, storage, name, space={"family.latent_dim": {"choice": [2]}}, settings=settings)
    with pytest.raises(UserError, match=r"scaling\.use_gpu=true: .*\b1 GPUs.*\b0\b"):
        {"train": lambda: train(found.first), "sweep": lambda: sweep(found)}[verb]()
    assert rows(Store.of_experiment(found.first)) == [] and not [*(storage / "runs").glob(f"{name}*")]
