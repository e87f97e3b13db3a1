"""One experiment from configuration to artifact: prepare, train on Ray Train, evaluate, track."""

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
from gen_ray.cluster.evaluation.evaluate import evaluate
from gen_ray.cluster.jobs.queue import turn, wait
from gen_ray.cluster.jobs.waiting import awaited, is_placing, missing, result, started
from gen_ray.cluster.nodes.connect import connected, cpus_per_worker, needs
from gen_ray.cluster.tracking import logger_actor
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import opened, params, record, recorded
from gen_ray.datasets.prepare import BadRows, find, prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.evaluation.requirements import unmeasurable_metrics
from gen_ray.engine.training import checkpoint_store
from gen_ray.errors import EndedError, RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.storage import lease, paths
from gen_ray.tracking.store import Store

logger = logging.getLogger(__name__)
OnProgress = Callable[[int, int, Mapping[str, float]], None]
"""Told (steps done, steps in all, newest metrics) now and then while training goes on."""
LOOK_SECONDS = 0.5
STOP_SECONDS = 6.0
"""What an interrupted training is given to save a checkpoint."""
RETURN_SECONDS = 2.0
"""What Ray Train is given to return when its workers have stopped."""


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """A finished run."""

    run_id: str
    artifact: Path
    metrics: Mapping[str, float]
    provenance: Mapping[str, Mapping[str, Any]]


def prepare_data(experiment: Experiment, progress: Callable[[int], None] | None = None) -> Prepared:
    """Return the experiment's data set, preparing it first where that has not been done."""
    data = experiment.data
    paths.check(experiment.storage.root)
    return prepare(
        data.source,
        root=data.root,
        out=experiment.storage.root / "data",
        options=data.options,
        on_bad_row=BadRows.parse(data.on_bad_row),
        progress=progress,
    )


def training_data(experiment: Experiment, artifact: Path) -> Prepared:
    """Return the prepared data that an artifact was trained on, from storage.root, prepared again where missing."""
    paths.check(experiment.storage.root)
    found = find(experiment.storage.root / "data", run_directory.meta(artifact)["data_fingerprint"])
    return found or prepare_data(experiment)


def train(
    experiment: Experiment,
    *,
    resume: bool = False,
    take_over: bool = False,
    accept_data: bool = False,
    watch: OnProgress | None = None,
) -> TrainOutcome:
    """Run one experiment to its artifact. Raise UserError or RunError; the MLflow run then says FAILED and why.

    resume goes on with the newest run of this name. take_over ends the process that works on it, if one
    does; accept_data goes on also if the data are other ones.
    """
    store = store_of(experiment)  # a wrong address ends the command here
    prepared = prepare_data(experiment)
    experiment.model(prepared.spec)  # settings that do not fit the data are refused before anything starts
    report_unmeasured(prepared)
    report_large_batch(experiment, prepared)
    resumed = resumption.run(experiment, prepared, accept_data=accept_data) if resume else None
    with ExitStack() as leases:  # the last to end: by then no worker writes into the folder
        leases.enter_context(paths.without_traces(*written(experiment.storage.root, run_directory.RUNS)))
        if resumed:
            leases.enter_context(lease.held(resumed.home, take_over=take_over))
            resumed.state()
        with connected(experiment.scaling):
            wanted = needs(experiment.scaling, cpus_per_worker(experiment.scaling))  # refuses a lack of GPUs
            home = resumed.home if resumed else run_directory.folder(experiment, run_directory.new_id(experiment))
            track = RunLogger(logger_actor.start(store, experiment.storage.root), home.name)
            track.open(name=experiment.name, params=params(experiment, prepared), tags=resumed.tags if resumed else {})
            opened(track, home, is_new=resumed is None)
            with recorded(track):
                run_directory.save(experiment, home.name)
                resumption.keep_data(home, prepared)
                if not resumed:
                    leases.enter_context(lease.held(home))
                return _run(experiment, prepared, track, home, wanted, watch)


def written(root: Path, kind: str) -> tuple[Path, Path]:
    """Return the folders below storage.root into which a command writes before its first training: see without_traces.

    kind: the folder of its runs or sweeps.
    """
    return root / kind, root / logger_actor.OUTBOX


def _run(
    experiment: Experiment,
    prepared: Prepared,
    track: RunLogger,
    home: Path,
    wanted: Mapping[str, float],
    watch: OnProgress | None,
) -> TrainOutcome:
    """Train and evaluate a run that is open in MLflow, once the cluster has room for its workers' needs."""
    imported = started(_imported)
    with turn(track.run_id, experiment.scaling.priority, wanted, track.tracker) as place:
        awaited(partial(wait, place))
        fit = partial(result(imported), experiment, prepared, track)
        began = time.monotonic()
        splits = awaited(partial(cached, experiment, prepared))
        with _watched(track, watch):
            failure = _stoppable(partial(fit, splits=splits), track, wanted)
        if failure:
            raise fault(**failure)
        track.log({"train/minutes": (time.monotonic() - began) / 60}, 0)
        checkpoint = checkpoint_store.checkpoint_of(home, experiment.evaluation.checkpoint)
        report = evaluate(experiment, prepared, checkpoint, home / run_directory.ARTIFACT, run_id=track.run_id)
        record(track, report, home)
    return TrainOutcome(
        run_id=track.run_id,
        artifact=home / run_directory.ARTIFACT,
        metrics=report["metrics"],
        provenance=report["provenance"],
    )


def report_unmeasured(prepared: Prepared, needed: str = "") -> None:
    """Log a line for each thing that the data will not allow to measure. Raise UserError if that is needed."""
    missing = unmeasurable_metrics(prepared.spec, prepared.rows)
    if needed in missing:
        raise UserError(f"metric {needed}: cannot be measured; {missing[needed]}")
    for line in dict.fromkeys(missing.values()):
        logger.warning(line)


def report_large_batch(experiment: Experiment, prepared: Prepared) -> None:
    """Log a line where a batch holds more rows than the training split, and so each row more than once."""
    size, rows = experiment.data.batch_size, prepared.rows["train"]
    if size > rows:
        steps = max(1, experiment.training.epochs * rows // size)
        logger.warning(
            "data.batch_size=%d: is more than the %d training rows, which a batch repeats; the training has %d step%s",
            *(size, rows, steps, "" if steps == 1 else "s"),
        )


def _imported() -> Callable[..., dict[str, str]]:
    """Return what trains. To import Ray Train takes seconds."""
    from gen_ray.cluster.training.trainer import fit_with_retries

    return fit_with_retries


def store_of(experiment: Experiment) -> Store:
    """Return the MLflow store of an experiment."""
    return Store.of(experiment.tracking.uri, experiment.tracking.experiment, experiment.storage.root)


def _stoppable(fit: Callable[[], dict[str, str]], track: RunLogger, wanted: Mapping[str, float]) -> dict[str, str]:
    """Return what fit returns. On an interrupt let it save a checkpoint first, for as long as that may take.

    In a thread: in the main one Ray Train would answer Ctrl-C itself, by aborting the workers where they stand.
    """

    def report() -> str:
        if track.has_started():
            return ""
        room = missing(wanted) if is_placing() else ""  # what the workers have is not free either
        return f"{track.run_id}: waits for {room or 'its workers to start'}"

    fitting = started(fit)
    try:
        return result(fitting, report)
    except (KeyboardInterrupt, EndedError) as ended:
        message = _stopped(track) or "ended before there was anything to save"
        # Ray must not be shut down while that thread is inside it: the process crashed or started a second Ray.
        futures.wait([fitting], timeout=RETURN_SECONDS)
        raise EndedError(message, getattr(ended, "code", 130)) from None


def _stopped(track: RunLogger) -> str:
    """Have the workers save a checkpoint and stop; return what they say, empty where they have not started or hang."""
    until = time.monotonic() + (STOP_SECONDS if track.has_started() else 0)
    track.stop()
    while not (stopped := track.fault()) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS / 5)
    return stopped.get("message", "")


def fault(message: str, reason: str, trace: str = "") -> Exception:
    """Return what a worker returned as the error it was; --debug shows the trace of the worker below it."""
    error = UserError(message) if reason == "user" else RunError(message, reason=reason)
    if trace:
        error.add_note(trace)
    return error


@contextmanager
def _watched(track: RunLogger, watch: OnProgress | None) -> Iterator[None]:
    """Pass the tracker's progress on while the block runs, and once more after it; a short run ends first."""
    if watch is None:
        yield
        return
    over = Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            watch(*track.look())

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    watch(*track.look())
