"""Job ids and cluster addresses, without a cluster."""

from types import SimpleNamespace

import pytest

from gen_ray.cluster.jobs.jobs import Jobs, RayJob
from gen_ray.errors import RunError
from tests.conftest import free_port


def test_ids_of_a_clock_that_was_ahead_are_not_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {
        "a-20261123T020000Z": "succeeded", "a-20261124T020000Z": "succeeded", "a-20261125T020000Z": "running",
        "a-b-20261124T020000Z": "failed", "other": "failed",
    }  # fmt: skip
    jobs, deleted = Jobs("http://head:8265"), list[str]()
    found = [RayJob(id=id, state=state, command="", began=0, seconds=0, message="") for id, state in states.items()]
    monkeypatch.setattr(jobs, "all", lambda: found)
    monkeypatch.setattr(jobs, "_ask", lambda question: question(SimpleNamespace(delete_job=deleted.append)))
    jobs.free_ids("a", "a-20261123T120000Z")
    assert deleted == ["a-20261124T020000Z"]


def test_an_address_without_a_cluster_is_not_a_cluster_without_jobs() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RunError, match=rf"Ray jobs at {address}: no cluster's dashboard answers there; .*`address`"):
        Jobs(address).all()
