"""Prometheus metrics of a replica by key name, without processes of Ray."""

from typing import Any

import pytest

from gen_ray.cluster.serving.metrics import ReplicaMetrics
from gen_ray.engine.inference.batcher import LatencyProfile, RequestHandle
from gen_ray.engine.inference.batcher.admission_control import AdmissionControl
from gen_ray.serving.service import ErrorReply, JobResult, ServingJob


class RecordingMetric:
    """A metric that keeps its values for the test."""

    def __init__(self) -> None:
        self.observed: list[tuple[float, dict[str, str]]] = []

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        self.observed.append((value, tags or {}))

    observe = set

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        self.set(value, tags)


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = ReplicaMetrics()
    for name in ("_queued", "_latency", "_refused", "_backlog", "_requests"):
        monkeypatch.setattr(made, name, RecordingMetric())
    return made


def test_the_queue_is_shown_by_key_and_returns_to_zero(meters: Any) -> None:
    admission = AdmissionControl(LatencyProfile((1,), (1.0,)), backlog_limit=1e9)
    handles = [RequestHandle(key="anna"), RequestHandle(key="anna"), RequestHandle(key="bert")]
    for handle in handles:
        admission.admit(handle, 3)
    meters.read(admission)
    assert {tags["key"]: value for value, tags in meters._requests.observed} == {"anna": 2, "bert": 1}
    assert {tags["key"]: value for value, tags in meters._backlog.observed} == {"anna": 6.0, "bert": 3.0}
    admission.release(handles[2])
    meters._requests.observed.clear()
    meters.read(admission)
    assert {tags["key"]: value for value, tags in meters._requests.observed} == {"anna": 2, "bert": 0}


def test_answers_and_refusals_are_counted_by_key(meters: Any) -> None:
    job = ServingJob(request_id="r", verb="score", key="anna")
    answer = JobResult(
        arrays={}, version="1", sampler=None, steps=None, nfe=1, seed=0, queued_seconds=1.0, computed_seconds=2.0
    )
    meters.record(answer, job)
    meters.record(ErrorReply(status=429, code="busy", message="full"), job)
    assert meters._queued.observed == [(1.0, {"verb": "score", "key": "anna"})]
    assert meters._latency.observed == [(3.0, {"verb": "score", "key": "anna"})]
    assert meters._refused.observed == [(1.0, {"verb": "score", "key": "anna", "code": "busy"})]
