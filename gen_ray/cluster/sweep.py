"""A sweep on Ray Tune: the study says what to try, trials are runs of their own, MLflow shows them below one parent."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from gen_ray import runs
from gen_ray.cluster import tracker
from gen_ray.cluster.connect import connected, uses_gpu
from gen_ray.cluster.data import fits_in_memory
from gen_ray.cluster.reading import read
from gen_ray.cluster.recording import params
from gen_ray.cluster.sweep_report import DONE, PLAN, Outcome, conclude, show, trial_run
from gen_ray.cluster.tracker import Track
from gen_ray.cluster.train import prepare_data, store_of
from gen_ray.cluster.trial import Task, trial
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import EndedError, RunError, UserError
from gen_ray.experiment import Experiment, Scaling
from gen_ray.sweeps import config
from gen_ray.sweeps.config import Plan, Point
from gen_ray.sweeps.study import FAILED, LIVE, STOPPED, Result, Study, given

SWEEP = "gen_ray.sweep"
logger = logging.getLogger(__name__)
Watch = Callable[[int, int, Mapping[str, float]], None]


class Ledger(Searcher):
    """Ray Tune's view of a study. It also tells MLflow how each trial ended, which a stopped trial cannot do itself."""

    def __init__(self, study: Study, parent: Track, prepared: Prepared, watch: Watch | None) -> None:
        """Begin with no trial running."""
        super().__init__()
        self.study, self.parent, self.prepared, self.watch = study, parent, prepared, watch
        self.numbers: dict[str, int] = {}
        self.began = time.monotonic()

    def late(self) -> bool:
        """Return whether the time in which trials may begin is over."""
        minutes = self.study.sweep.minutes
        return minutes is not None and time.monotonic() - self.began > 60 * minutes

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's configuration."""
        asked = None if self.late() else self.study.ask()
        if asked is None:
            return Searcher.FINISHED
        number, point = asked
        self.numbers[trial_id] = number
        experiment = self._open(number, point)
        return {"run_id": self.track(number).run_id, "experiment": json.dumps(experiment.resolved())}

    def _open(self, number: int, point: Point) -> Experiment:
        """Open a trial's run in MLflow below the sweep's, and return what it is to train."""
        experiment = self.study.plan.experiment(point)
        self.track(number).open(
            name=f"{number:03d} {config.words(point)}",
            params=params(experiment, self.prepared),
            tags={SWEEP: self.parent.run_id, "gen_ray.trial": f"{number:03d}"},
            parent=self.parent.run_id,
        )
        return experiment

    def reconcile(self) -> None:
        """Tell MLflow again how the trials ended that a driver before this one saw end: it may have died in between."""
        for result in self.study.results():
            if result.state != LIVE:
                self._open(result.number, result.point)
                self._close(result)

    def _close(self, result: Result) -> None:
        track = self.track(result.number)
        if result.error:
            track.tag({"error": result.error[:500]})
        if result.state == STOPPED:
            track.tag({"stopped_early": f"after epoch {result.stopped_at}"})
        track.end("FAILED" if result.state == FAILED else "FINISHED")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the trial tells MLflow itself."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended, in the study and in MLflow."""
        number, found = self.numbers.pop(trial_id), result or {}
        metrics = {key: float(value) for key, value in found.items() if "/" in key and isinstance(value, int | float)}
        wrong = "its process was lost too often" if error else str(found.get("error", ""))
        if wrong:
            self.track(number).tag({"reason": "lost" if error else str(found["reason"])})
        self.study.tell(number, metrics, error=wrong, stopped_at=None if found.get("ended") else found.get("epoch"))
        ended = [result for result in self.study.results() if result.state != LIVE]
        self._close(next(result for result in ended if result.number == number))
        if self.watch is not None:
            best = self.study.best()[:1]
            self.watch(len(ended), self.study.wanted, {"best": best[0].value or 0.0} if best else {})

    def track(self, number: int) -> Track:
        """Return the track of a trial's run."""
        return Track(self.parent.tracker, trial_run(self.parent.run_id, number))

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's file is the only memory there is."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ledger":
        """Stay the one that there is."""
        return self

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Leave nothing of it in what Ray Tune pickles for a restoration that is not used."""
        return Searcher, ()


def sweep(plan: Plan, *, resume: bool = False, watch: Watch | None = None) -> Outcome:
    """Try what the plan says, and return what came of it. A failed trial is told in the table, and ends nothing else.

    Raise UserError for an impossible point before anything starts, RunError where the sweep itself cannot go on.
    """
    first = plan.experiment(next(iter(plan.corners())))
    prepared = prepare_data(first)
    for point in given(plan) or plan.corners():
        plan.experiment(point).model(prepared.spec)
    home = _home(plan, first, resume=resume)
    with connected(Scaling(num_workers=1, cpus_per_worker=os.cpu_count() or 1)):
        actor = tracker.start(store_of(first), first.storage.root)
        parent = Track(actor, home.name)
        parent.open(
            name=plan.sweep.name, params=_params(plan, prepared), tags={SWEEP: home.name, "gen_ray.kind": "sweep"}
        )
        status = "KILLED"
        try:
            splits = read(prepared) if fits_in_memory(prepared, first.scaling.num_workers) else {}
            parent.opened()
            study = Study(plan, home)
            ledger = Ledger(study, parent, prepared, watch)
            ledger.reconcile()
            _run(plan, study, ledger, splits, prepared, home)
            if study.unfinished() and not ledger.late():  # Ray Tune takes Ctrl-C for an order to end well
                raise EndedError(f"{home.name}: ended before all trials were done: --resume goes on from there", 130)
            outcome = conclude(study, home)
            show(parent, study, outcome, home)
            status = "FINISHED"
        except (RunError, UserError) as error:
            status = "FAILED"
            parent.tag({"error": str(error), "reason": getattr(error, "reason", "user")})
            raise
        finally:
            trouble = parent.close(status)
            if trouble:
                logger.warning("%s: %s, but not told: %s", home.name, status, trouble)
    return outcome


def _home(plan: Plan, first: Experiment, *, resume: bool) -> Path:
    """Return the sweep's folder: a new one, or that of the newest unfinished sweep of this name and content."""
    below, text = first.storage.root / "sweeps", config.dump(plan)
    if resume:
        found = [home for home in runs.named(plan.sweep.name, below) if not (home / DONE).exists()]
        if not found:
            raise UserError(f"--resume: no unfinished sweep named {plan.sweep.name!r} in {below}")
        if (found[-1] / PLAN).read_text() != text:
            raise UserError(f"--resume: {found[-1] / 'sweep.yaml'} is not what is asked for now")
        return found[-1]
    home = below / runs.fresh(plan.sweep.name, below)
    home.mkdir(parents=True)
    (home / PLAN).write_text(text)
    return home


def _run(plan: Plan, study: Study, ledger: Ledger, splits: Any, prepared: Prepared, home: Path) -> None:
    scaling, sweep = plan.experiment(next(iter(plan.corners()))).scaling, plan.sweep
    each = 1 if scaling.cpus_per_worker == "auto" else scaling.cpus_per_worker
    gpus = int(uses_gpu(scaling))
    alone = scaling.num_workers == 1
    # Several workers are booked by Ray Train: a trial that booked a part of a core as well might wait for its own.
    # Of nothing at all Ray Tune makes no place, so it is a megabyte.
    booked: dict[str, float] = {"cpu": each, "gpu": gpus} if alone else {"memory": 1e6}
    task = Task(tracker=ledger.parent.tracker, prepared=prepared.folder, splits=splits, cpus=each)
    room = int(ray.cluster_resources().get("CPU", 1)) // (each * scaling.num_workers)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, task=task), booked),
        tune_config=tune.TuneConfig(
            search_alg=ledger,
            scheduler=_scheduler(plan),
            num_samples=study.wanted,
            max_concurrent_trials=sweep.concurrency or max(1, room),
            reuse_actors=alone,
            trial_dirname_creator=str,
            trial_name_creator=str,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(home),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
        ),
    )
    tuner.fit()


def _scheduler(plan: Plan) -> TrialScheduler:
    wanted = plan.sweep.scheduler
    mode = {"metric": plan.sweep.metric, "mode": plan.sweep.direction[:3]}
    if wanted.name == "asha":
        epochs = max(plan.experiment(point).training.epochs for point in plan.corners())
        return ASHAScheduler(
            time_attr="epoch",
            max_t=epochs + 1,
            grace_period=wanted.grace_epochs,
            reduction_factor=wanted.reduction,
            **mode,
        )
    if wanted.name == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=wanted.grace_epochs, **mode)
    return FIFOScheduler()


def _params(plan: Plan, prepared: Prepared) -> dict[str, Any]:
    """Return a sweep's own settings as MLflow's params: an axis is one of them."""
    raw = plan.sweep.model_dump(mode="json", exclude={"space", "settings"})
    space = plan.sweep.model_dump(mode="json", exclude_none=True, exclude_defaults=True)["space"]
    axes = {f"space.{key}": config.label(axis) for key, axis in space.items()}
    return {**raw, **axes, "data.fingerprint": prepared.fingerprint[:12]}
