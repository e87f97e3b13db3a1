"""Prometheus metrics of a replica. Ray labels each metric with the deployment, which is the model."""

from ray.serve.metrics import Counter, Gauge, Histogram

from gen_ray.engine.inference.batcher.admission_control import AdmissionControl
from gen_ray.serving.service import ErrorReply, JobResult, ServingJob

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class ReplicaMetrics:
    """Counters, gauges and histograms of one replica."""

    def __init__(self) -> None:
        """Register the metrics."""
        by_verb = {"tag_keys": ("verb", "key"), "boundaries": SECONDS}
        self._queued = Histogram("gen_ray_queue_seconds", "Seconds from the request to its first evaluation", **by_verb)
        self._latency = Histogram("gen_ray_request_seconds", "Seconds from the request to its result", **by_verb)
        self._refused = Counter("gen_ray_refused_total", "Requests refused, by code", tag_keys=("verb", "key", "code"))
        self._forwards = Counter("gen_ray_forwards_total", "Batched network evaluations")
        self._evaluations = Counter("gen_ray_evaluations_total", "Network evaluations, padding not counted")
        self._backlog = Gauge("gen_ray_backlog_seconds", "Seconds of queued work", tag_keys=("key",))
        self._requests = Gauge("gen_ray_active_requests", "Active requests", tag_keys=("key",))
        self._keys: set[str] = set()
        self._rows = Gauge("gen_ray_active_rows", "Mean rows of a batch since the last reading")
        self._occupancy = Gauge("gen_ray_batch_occupancy", "Rows of a batch as a fraction of its capacity")
        self._last_counts = (0, 0, 0)

    def record(self, outcome: JobResult | ErrorReply, job: ServingJob) -> None:
        """Record the outcome of a job."""
        verb = {"verb": job.verb, "key": job.key}
        if isinstance(outcome, ErrorReply):
            self._refused.inc(tags={**verb, "code": outcome.code})
            return
        self._queued.observe(outcome.queued_seconds, tags=verb)
        self._latency.observe(outcome.queued_seconds + outcome.computed_seconds, tags=verb)

    def read(self, admission: AdmissionControl) -> None:
        """Publish a batcher's counters since the last reading. The batcher of a new version starts at 0."""
        counts = (admission.ticks, admission.evaluations, admission.possible_rows)
        grown = [new - old if new >= old else new for new, old in zip(counts, self._last_counts, strict=True)]
        ticks, evaluations, possible_rows = grown
        self._last_counts = counts
        if ticks:
            self._forwards.inc(ticks)
            self._evaluations.inc(evaluations)
        self._rows.set(evaluations / max(1, ticks))
        self._occupancy.set(evaluations / max(1, possible_rows))
        by_key = admission.by_key
        self._keys |= by_key.keys()
        for key in self._keys:  # also idle keys: otherwise their last value would stay
            requests, seconds = by_key.get(key, (0, 0.0))
            self._requests.set(requests, tags={"key": key})
            self._backlog.set(seconds, tags={"key": key})
