"""What Prometheus may know of a replica. Ray labels each metric with the deployment, which is the model."""

from ray.serve.metrics import Counter, Gauge, Histogram

from gen_ray.engine.inference.batcher.admission_control import AdmissionControl
from gen_ray.serving.service import ErrorReply, JobResult, ServingJob

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class ReplicaMetrics:
    """Counters, gauges and histograms of one replica."""

    def __init__(self) -> None:
        """Register them."""
        by_verb = {"tag_keys": ("verb", "key"), "boundaries": SECONDS}
        self._queued = Histogram("gen_ray_queue_seconds", "From asking to the first evaluation", **by_verb)
        self._latency = Histogram("gen_ray_request_seconds", "From asking to the answer", **by_verb)
        self._refused = Counter("gen_ray_refused_total", "Requests refused, by code", tag_keys=("verb", "key", "code"))
        self._forwards = Counter("gen_ray_forwards_total", "Ticks of the batcher")
        self._evaluations = Counter("gen_ray_evaluations_total", "Network evaluations, padding not counted")
        self._backlog = Gauge("gen_ray_backlog_seconds", "Seconds of work that wait", tag_keys=("key",))
        self._requests = Gauge("gen_ray_active_requests", "Requests under way", tag_keys=("key",))
        self._keys: set[str] = set()
        self._rows = Gauge("gen_ray_active_rows", "Rows of a tick, mean since the last reading")
        self._occupancy = Gauge("gen_ray_batch_occupancy", "Rows of a tick as a share of those there was room for")
        self._seen = (0, 0, 0)

    def told(self, outcome: JobResult | ErrorReply, job: ServingJob) -> None:
        """Take note of how a job ended."""
        verb = {"verb": job.verb, "key": job.key}
        if isinstance(outcome, ErrorReply):
            self._refused.inc(tags={**verb, "code": outcome.code})
            return
        self._queued.observe(outcome.queued_seconds, tags=verb)
        self._latency.observe(outcome.queued_seconds + outcome.computed_seconds, tags=verb)

    def read(self, ledger: AdmissionControl) -> None:
        """Publish what a batcher did since it was last read; a new version's batcher begins at 0."""
        now = (ledger.ticks, ledger.evaluations, ledger.room)
        ticks, evaluations, room = (new - old if new >= old else new for new, old in zip(now, self._seen, strict=True))
        self._seen = now
        if ticks:
            self._forwards.inc(ticks)
            self._evaluations.inc(evaluations)
        self._rows.set(evaluations / max(1, ticks))
        self._occupancy.set(evaluations / max(1, room))
        by_key = ledger.by_key
        self._keys |= by_key.keys()
        for key in self._keys:  # also those that have nothing left: their last value would stay otherwise
            requests, seconds = by_key.get(key, (0, 0.0))
            self._requests.set(requests, tags={"key": key})
            self._backlog.set(seconds, tags={"key": key})
