"""One experiment from configuration to artifact: prepare, train on Ray Train, evaluate, track."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from gen_ray import runs, storage
from gen_ray.cluster import tracker
from gen_ray.cluster.connect import connected, cpus_per_worker, needs
from gen_ray.cluster.data import cached
from gen_ray.cluster.evaluate import evaluate
from gen_ray.cluster.queue import Turn, turn, wait
from gen_ray.cluster.recording import params, record, recorded
from gen_ray.cluster.tracker import Track
from gen_ray.datasets.prepare import BadRows, prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine import shelf
from gen_ray.engine.measurable import unmeasured
from gen_ray.errors import EndedError, RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.store import Store

logger = logging.getLogger(__name__)
Watch = Callable[[int, int, Mapping[str, float]], None]
"""Told (steps done, steps in all, newest metrics) now and then while training goes on."""
LOOK_SECONDS = 0.5
STOP_SECONDS = 5.0
"""What an interrupted training is given to save a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run."""

    run_id: str
    artifact: Path
    metrics: Mapping[str, float]
    provenance: Mapping[str, Mapping[str, Any]]


def prepare_data(experiment: Experiment, progress: Callable[[int], None] | None = None) -> Prepared:
    """Return the experiment's data set, preparing it first where that has not been done."""
    data = experiment.data
    storage.check(experiment.storage.root)
    return prepare(
        data.source,
        root=data.root,
        out=experiment.storage.root / "data",
        options=data.options,
        on_bad_row=BadRows.parse(data.on_bad_row),
        progress=progress,
    )


def train(experiment: Experiment, *, resume: bool = False, watch: Watch | None = None) -> Outcome:
    """Run one experiment to its artifact. Raise UserError or RunError; the MLflow run then says FAILED and why."""
    store = store_of(experiment)  # a wrong address ends the command here
    prepared = prepare_data(experiment)
    experiment.model(prepared.spec)  # what does not go together is told before anything starts
    report_unmeasured(prepared)
    run_id = runs.unfinished(experiment) if resume else runs.new_id(experiment)
    home = runs.save(experiment, run_id)
    with connected(experiment.scaling), ThreadPoolExecutor(1) as aside:
        ready = aside.submit(_trainable, experiment, prepared)  # while the tracker starts
        track = Track(tracker.start(store, experiment.storage.root), run_id)
        track.open(name=experiment.name, params=params(experiment, prepared), tags={})
        _wait_until_open(track, home, new=not resume)
        with recorded(track), _turn(experiment, track) as place:
            wait(place)
            began = time.monotonic()
            _train(partial(ready.result(), track), track, watch)
            track.log({"train/minutes": (time.monotonic() - began) / 60}, 0)
            checkpoint = shelf.trained(home, experiment.evaluation.checkpoint)
            report = evaluate(experiment, prepared, checkpoint, home / runs.ARTIFACT, run_id=run_id)
            record(track, report, home)
    return Outcome(
        run_id=run_id, artifact=home / runs.ARTIFACT, metrics=report["metrics"], provenance=report["provenance"]
    )


def _wait_until_open(track: Track, home: Path, *, new: bool) -> None:
    """Return when the run is open in MLflow. A new run that MLflow refuses leaves no folder. Raise RunError."""
    try:
        track.opened()
    except RunError:
        if new:
            storage.remove(home)
        raise


def report_unmeasured(prepared: Prepared, needed: str = "") -> None:
    """Log a line for each thing that the data will not allow to measure. Raise UserError if that is needed."""
    missing = unmeasured(prepared.spec, prepared.rows)
    if needed in missing:
        raise UserError(f"metric {needed}: cannot be measured; {missing[needed]}")
    for line in dict.fromkeys(missing.values()):
        logger.warning(line)


def _turn(experiment: Experiment, track: Track) -> AbstractContextManager[Turn]:
    scaling = experiment.scaling
    return turn(track.run_id, scaling.priority, needs(scaling, cpus_per_worker(scaling)), track.tracker)


def _trainable(experiment: Experiment, prepared: Prepared) -> Callable[..., dict[str, str]]:
    """Return what trains, given a track. To import Ray Train and to read the data takes seconds."""
    from gen_ray.cluster.attempts import attempts

    return partial(attempts, experiment, prepared, splits=cached(experiment, prepared))


def store_of(experiment: Experiment) -> Store:
    """Return the MLflow store of an experiment."""
    return Store.of(experiment.tracking.uri, experiment.tracking.experiment, experiment.storage.root)


def _train(fit: Callable[[], dict[str, str]], track: Track, watch: Watch | None) -> None:
    """Do what fit does, watched and stoppable. Raise what it returns as fault."""
    with _watched(track, watch):
        told = _stoppable(fit, track)
    if told:
        raise fault(**told)


def _stoppable(fit: Callable[[], dict[str, str]], track: Track) -> dict[str, str]:
    """Return what fit returns. On an interrupt let it save a checkpoint first, for as long as that may take.

    In a thread: in the main one Ray Train would answer Ctrl-C itself, by aborting the workers where they stand.
    """
    pool = ThreadPoolExecutor(1)
    fitting = pool.submit(fit)
    try:
        return fitting.result()
    except (KeyboardInterrupt, EndedError) as ended:
        track.stop()
        told: dict[str, str] = {}
        with suppress(TimeoutError):
            told = fitting.result(STOP_SECONDS)
        message = told.get("message", "ended before there was anything to save")
        raise EndedError(message, getattr(ended, "code", 130)) from None
    finally:
        pool.shutdown(wait=False)


def fault(message: str, reason: str, trace: str = "") -> Exception:
    """Return what a worker returned as the error it was; --debug shows the trace of the worker below it."""
    error = UserError(message) if reason == "user" else RunError(message, reason=reason)
    if trace:
        error.add_note(trace)
    return error


@contextmanager
def _watched(track: Track, watch: Watch | None) -> Iterator[None]:
    """Pass the tracker's progress on while the block runs."""
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
