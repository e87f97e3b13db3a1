"""Runs one experiment from configuration to artifact: prepare, train on Ray Train, evaluate, record."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from gen_ray import resumption, run_directory
from gen_ray.cluster.data.blocks import cached
from gen_ray.cluster.data.preparation import prepare_data
from gen_ray.cluster.evaluation.evaluate import evaluate
from gen_ray.cluster.jobs.queue import queue_slot, wait
from gen_ray.cluster.jobs.waiting import awaited, is_placing, missing, result, started
from gen_ray.cluster.nodes.connect import connected, cpus_per_worker, needs
from gen_ray.cluster.tracking import logger_actor
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import params, record, recorded, wait_until_open
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.evaluation.requirements import unmeasurable_metrics, unsuitable
from gen_ray.engine.training import checkpoint_store
from gen_ray.errors import EndedError, RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.metrics import TRAINING_MINUTES
from gen_ray.storage import lease
from gen_ray.storage.cleanup import cleanup_on_error
from gen_ray.tracking.store import Store

logger = logging.getLogger(__name__)
OnProgress = Callable[[int, int, Mapping[str, float]], None]
"""Callback with (steps done, total steps, newest metrics), called regularly during training."""
POLL_SECONDS = 0.5
STOP_SECONDS = 6.0
"""Time for an interrupted training to save a checkpoint."""
RETURN_SECONDS = 2.0
"""Time for Ray Train to return after its workers have stopped."""


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """A finished run."""

    run_id: str
    artifact: Path
    metrics: Mapping[str, float]
    provenance: Mapping[str, Mapping[str, Any]]


def train(
    experiment: Experiment,
    *,
    resume: bool = False,
    take_over: bool = False,
    accept_data: bool = False,
    watch: OnProgress | None = None,
) -> TrainOutcome:
    """Run one experiment to its artifact. Raise UserError or RunError; the MLflow run is then FAILED with the reason.

    resume continues the newest run of this name. take_over ends another process that works on that run; accept_data
    continues even if the data have changed.
    """
    store = Store.of_experiment(experiment)  # fails here if the address is wrong
    prepared = prepare_data(experiment)
    experiment.model(prepared.spec)  # rejects settings that do not fit the data
    report_unmeasured(prepared)
    report_large_batch(experiment, prepared)
    resumed = resumption.run(experiment, prepared, accept_data=accept_data) if resume else None
    with ExitStack() as leases:  # released last, when no worker writes into the folder
        leases.enter_context(cleanup_on_error(*written(experiment.storage.root, run_directory.RUNS)))
        if resumed:
            leases.enter_context(lease.acquire(resumed.home, take_over=take_over))
            resumed.state()
        with connected(experiment.scaling):
            needed = needs(experiment.scaling, cpus_per_worker(experiment.scaling))  # raises if GPUs are missing
            home = resumed.home if resumed else run_directory.folder(experiment, run_directory.new_id(experiment))
            track = RunLogger(logger_actor.start(store, experiment.storage.root), home.name)
            track.open(name=experiment.name, params=params(experiment, prepared), tags=resumed.tags if resumed else {})
            wait_until_open(track, home, is_new=resumed is None)
            with recorded(track):
                run_directory.save(experiment, home.name)
                resumption.keep_data(home, prepared)
                if not resumed:
                    leases.enter_context(lease.acquire(home))
                return _run(experiment, prepared, track, home, needed, watch)


def written(root: Path, kind: str) -> tuple[Path, Path]:
    """Return the folders below storage.root that a command writes to before its first training; see cleanup_on_error.

    kind: the folder of its runs or sweeps.
    """
    return root / kind, root / logger_actor.OUTBOX


def _run(
    experiment: Experiment,
    prepared: Prepared,
    track: RunLogger,
    home: Path,
    needed: Mapping[str, float],
    watch: OnProgress | None,
) -> TrainOutcome:
    """Train and evaluate a run that is open in MLflow, when the cluster has the resources in needed."""
    imported = started(_imported)
    with queue_slot(track.run_id, experiment.scaling.priority, needed, track.tracker) as slot:
        awaited(partial(wait, slot))
        fit = partial(result(imported), experiment, prepared, track)
        began = time.monotonic()
        splits = awaited(partial(cached, experiment, prepared))
        with _watched(track, watch):
            failure = _stoppable(partial(fit, splits=splits), track, needed)
        if failure:
            raise fault(**failure)
        track.log({TRAINING_MINUTES.name: (time.monotonic() - began) / 60}, 0)
        checkpoint = checkpoint_store.checkpoint_of(home, experiment.evaluated_checkpoint)
        report = evaluate(experiment, prepared, checkpoint, home / run_directory.ARTIFACT, run_id=track.run_id)
        record(track, report, home)
    return TrainOutcome(
        run_id=track.run_id,
        artifact=home / run_directory.ARTIFACT,
        metrics=report["metrics"],
        provenance=report["provenance"],
    )


def report_unmeasured(prepared: Prepared, needed: str = "") -> None:
    """Warn about each metric that the data do not allow to measure. Raise UserError if needed is one of them."""
    missing = unmeasurable_metrics(prepared.spec, prepared.rows)
    if reason := unsuitable(prepared.spec, needed) or missing.get(needed):
        raise UserError(f"metric {needed}: cannot be measured; {reason}")
    for line in dict.fromkeys(missing.values()):
        logger.warning(line)


def report_large_batch(experiment: Experiment, prepared: Prepared) -> None:
    """Warn if a batch holds more rows than the training split, so that rows repeat within it."""
    size, rows = experiment.data.batch_size, prepared.rows["train"]
    if size > rows:
        steps = max(1, experiment.training.epochs * rows // size)
        logger.warning(
            "data.batch_size=%d: is more than the %d training rows, so rows repeat in a batch; training has %d step%s",
            *(size, rows, steps, "" if steps == 1 else "s"),
        )


def _imported() -> Callable[..., dict[str, str]]:
    """Import fit_with_retries; importing Ray Train takes seconds."""
    from gen_ray.cluster.training.trainer import fit_with_retries

    return fit_with_retries


def _stoppable(fit: Callable[[], dict[str, str]], track: RunLogger, needed: Mapping[str, float]) -> dict[str, str]:
    """Return the result of fit. On an interrupt, first give it time to save a checkpoint.

    fit runs in a thread: in the main thread Ray Train would handle Ctrl-C itself by aborting the workers at once.
    """

    def report() -> str:
        if track.has_started():
            return ""
        room = missing(needed) if is_placing() else ""  # after placement the workers' own resources are not free
        return f"{track.run_id}: waits for {room or 'its workers to start'}"

    fitting = started(fit)
    try:
        return result(fitting, report)
    except (KeyboardInterrupt, EndedError) as ended:
        message = _stopped(track) or "ended before the first checkpoint"
        # Ray must not be shut down while that thread is inside it: the process crashed or started a second Ray.
        futures.wait([fitting], timeout=RETURN_SECONDS)
        raise EndedError(message, getattr(ended, "code", 130)) from None


def _stopped(track: RunLogger) -> str:
    """Make the workers save a checkpoint and stop; return their message, or "" if they have not started or hang."""
    until = time.monotonic() + (STOP_SECONDS if track.has_started() else 0)
    track.stop()
    while not (stopped := track.fault()) and time.monotonic() < until:
        time.sleep(POLL_SECONDS / 5)
    return stopped.get("message", "")


def fault(message: str, reason: str, trace: str = "") -> Exception:
    """Return a worker's error report as an error; the worker's trace is its note."""
    error = UserError(message) if reason == "user" else RunError(message, reason=reason)
    if trace:
        error.add_note(trace)
    return error


@contextmanager
def _watched(track: RunLogger, watch: OnProgress | None) -> Iterator[None]:
    """Pass the logged progress to watch during the block, and once after it, because a run may be short."""
    if watch is None:
        yield
        return
    over = Event()

    def report_progress() -> None:
        while not over.wait(POLL_SECONDS):
            watch(*track.latest())

    thread = Thread(target=report_progress, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    watch(*track.latest())
