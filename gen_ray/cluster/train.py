"""One experiment from configuration to artifact: prepare, train on Ray Train, evaluate, track."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from gen_ray import runs
from gen_ray.cluster import tracker
from gen_ray.cluster.connect import connected, cpus_per_worker, uses_gpu
from gen_ray.cluster.data import dataset, fits_in_memory
from gen_ray.cluster.evaluate import evaluate
from gen_ray.cluster.worker import shelf, work
from gen_ray.comparison import RANKED
from gen_ray.datasets.prepare import BadRows, prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import EndedError, RunError, UserError
from gen_ray.experiment import Experiment
from gen_ray.tracking import Store

Watch = Callable[[int, int, Mapping[str, float]], None]
"""Told (steps done, steps in all, newest metrics) now and then while training goes on."""
LOOK_SECONDS = 0.5
STOP_SECONDS = 5.0
"""What an interrupted training is given to save a checkpoint."""
logger = logging.getLogger(__name__)


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
    prepared = prepare_data(experiment)
    experiment.model(prepared.spec)  # what does not go together is told before anything starts
    run_id = runs.unfinished(experiment) if resume else runs.new_id(experiment)
    home = runs.save(experiment, run_id)
    with connected(experiment.scaling), _tracked(experiment, prepared, run_id) as log:
        began = time.monotonic()
        checkpoint = _train(experiment, prepared, run_id, log, watch)
        log.log.remote({"train/minutes": (time.monotonic() - began) / 60}, 0)
        report = evaluate(experiment, prepared, checkpoint, home / runs.ARTIFACT, run_id=run_id)
        _record(log, report, home)
    return Outcome(
        run_id=run_id, artifact=home / runs.ARTIFACT, metrics=report["metrics"], provenance=report["provenance"]
    )


def store_of(experiment: Experiment) -> Store:
    """Return the MLflow store of an experiment."""
    return Store.of(experiment.tracking.uri, experiment.tracking.experiment, experiment.storage.root)


@contextmanager
def _tracked(experiment: Experiment, prepared: Prepared, run_id: str) -> Iterator[Any]:
    """Give the tracker of a run, which ends FINISHED, FAILED with the reason, or KILLED on an interrupt."""
    params = {**experiment.flat(), "data.fingerprint": prepared.fingerprint[:12]}
    log = tracker.start(store_of(experiment), run_id, name=experiment.name, params=params, tags={})
    status = "KILLED"
    try:
        yield log
        status = "FINISHED"
    except (RunError, UserError) as error:
        status = "FAILED"
        log.tag.remote({"reason": getattr(error, "reason", type(error).__name__), "error": str(error)})
        raise
    except Exception as error:
        status = "FAILED"
        log.tag.remote({"reason": type(error).__name__, "error": str(error)[:500]})
        raise
    finally:
        ray.get(log.close.remote(status))


def _train(experiment: Experiment, prepared: Prepared, run_id: str, log: Any, watch: Watch | None) -> Path:
    """Return the folder of the last checkpoint."""
    with _watched(log, watch):
        fault = _stoppable(partial(_fit, experiment, prepared, run_id, log), log)
    if fault:
        raise _fault(**fault)
    found = shelf(runs.folder(experiment, run_id)).last()
    if found is None:
        raise RunError(f"{run_id}: the training ended without a checkpoint")
    return found


def _stoppable(fit: Callable[[], dict[str, str]], log: Any) -> dict[str, str]:
    """Return what fit returns. On an interrupt let it save a checkpoint first, for as long as that may take.

    In a thread: in the main one Ray Train would answer Ctrl-C itself, by aborting the workers where they stand.
    """
    pool = ThreadPoolExecutor(1)
    fitting = pool.submit(fit)
    try:
        return fitting.result()
    except (KeyboardInterrupt, EndedError) as ended:
        ray.get(log.stop.remote())
        told: dict[str, str] = {}
        with suppress(TimeoutError):
            told = fitting.result(STOP_SECONDS)
        message = told.get("message", "ended before there was anything to save")
        raise EndedError(message, getattr(ended, "code", 130)) from None
    finally:
        pool.shutdown(wait=False)


def _fit(experiment: Experiment, prepared: Prepared, run_id: str, log: Any) -> dict[str, str]:
    """Return what the workers return. Ray replaces lost workers; a lost controller is replaced here, as often."""
    lost = 0
    while True:
        try:
            found: dict[str, str] = trainer(experiment, prepared, run_id, log, work).fit().return_value
        except ray.train.TrainingFailedError as error:
            raise spoken(error) from error
        except ray.exceptions.RayActorError as error:
            ray.get(log.vacate.remote())
            lost += 1
            if lost > experiment.scaling.max_failures:
                message = f"{run_id}: the training's controller died; --resume goes on from the last checkpoint"
                raise RunError(message, reason="controller_lost") from error
            logger.warning("%s: the training's controller died; going on from the last checkpoint", run_id)
        else:
            return found


def _fault(message: str, reason: str, trace: str = "") -> Exception:
    """Return what a worker returned as the error it was; --debug shows the trace of the worker below it."""
    error = UserError(message) if reason == "user" else RunError(message, reason=reason)
    if trace:
        error.add_note(trace)
    return error


def trainer(
    experiment: Experiment, prepared: Prepared, run_id: str, log: Any, loop: Callable[..., Any], **extra: Any
) -> TorchTrainer:
    """Return a Ray Train trainer that calls loop({experiment, prepared, tracker, cache, **extra}) on every worker."""
    scaling, cache, gpu = experiment.scaling, _cache(experiment, prepared), uses_gpu(experiment.scaling)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(scaling.hang_seconds)  # the driver's goes with the run
    task = {
        "experiment": experiment.resolved(),
        "prepared": str(prepared.folder),
        "home": str(runs.folder(experiment, run_id)),
        "tracker": log,
        "cache": cache,
    }
    return TorchTrainer(
        loop,
        train_loop_config={**task, **extra},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus_per_worker(scaling), **({"GPU": 1} if gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=run_id,
            storage_path=str(experiment.storage.root / "runs"),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures, controller_failure_limit=3),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
        datasets={split: dataset(prepared.shards(split)) for split in (("train", "validation") if cache else ())},
        # Every worker reads the whole split and takes its lanes by index: the order is then a function of the seed.
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )


def _cache(experiment: Experiment, prepared: Prepared) -> bool:
    choice = {"memory": True, "stream": False}
    if experiment.data.cache in choice:
        return choice[experiment.data.cache]
    return fits_in_memory(prepared, experiment.scaling.num_workers)


@contextmanager
def _watched(log: Any, watch: Watch | None) -> Iterator[None]:
    """Pass the tracker's progress on while the block runs."""
    if watch is None:
        yield
        return
    over = Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            watch(*ray.get(log.look.remote()))

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def spoken(error: BaseException) -> Exception:
    """Return the UserError or RunError inside what Ray wrapped around it, else a RunError of its innermost line."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop(0)
        if found is None or found in seen:
            continue
        seen.append(found)
        if isinstance(found, UserError | RunError) and not isinstance(found, ray.exceptions.RayTaskError):
            return found  # a RayTaskError may pass for one, but its message is a traceback
        waiting += [getattr(found, "cause", None), found.__cause__]
        waiting += list(getattr(found, "worker_failures", {}).values())
    last = str(seen[-1]).strip().splitlines() or [type(seen[-1]).__name__]
    return RunError(f"training stopped: {last[-1]}")


def _record(log: Any, report: Mapping[str, Any], home: Path) -> None:
    step = report["steps"]
    log.tag.remote({"sampler": report["sampler"]})
    log.log.remote({**report["metrics"], "train/steps": step}, step)
    origins = {name: report["provenance"].get(name, {}) for name in RANKED}
    log.tag.remote({f"provenance.{name}.{key}": word for name, how in origins.items() for key, word in how.items()})
    for name, picture in report["pictures"].items():
        log.show.remote(f"evaluation_{name}", picture, step)
    for name, text in report["texts"].items():
        log.show_text.remote(f"evaluation_{name}", text, step)
    log.keep.remote(str(home / runs.ARTIFACT), "model")
    log.keep.remote(os.fspath(home / "config.yaml"), "config")
