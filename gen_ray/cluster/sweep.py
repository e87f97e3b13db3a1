"""A sweep on Ray Tune: the study says what to try, trials are runs of their own, MLflow shows them below one parent."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from gen_ray import runs
from gen_ray.cluster import tracker
from gen_ray.cluster.connect import connected, cpus_per_worker, terminable, uses_gpu
from gen_ray.cluster.data import cached
from gen_ray.cluster.reading import Splits
from gen_ray.cluster.recording import params, recorded
from gen_ray.cluster.sweep_report import DONE, PLAN, Outcome, conclude, show, trial_run
from gen_ray.cluster.tracker import Track
from gen_ray.cluster.train import Watch, prepare_data, store_of
from gen_ray.cluster.trial import Task, trial
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import EndedError, UserError
from gen_ray.experiment import Experiment, flatten
from gen_ray.sweeps import config
from gen_ray.sweeps.config import Plan, Point
from gen_ray.sweeps.study import FAILED, LIVE, STOPPED, Result, Study, given

SWEEP = "gen_ray.sweep"


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
        stopped_at = None if found.get("ended") else found.get("epoch")
        self._close(self.study.tell(number, metrics, error=wrong, stopped_at=stopped_at))
        if self.watch is not None:
            ended = sum(result.state != LIVE for result in self.study.results())
            self.watch(ended, self.study.wanted, {})

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


def sweep(
    plan: Plan, *, resume: bool = False, watch: Watch | None = None, tags: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    """Try what the plan says, and return what came of it. A failed trial is told in the table, and ends nothing else.

    Raise UserError for an impossible point before anything starts, RunError where the sweep itself cannot go on.
    """
    first = plan.first
    prepared = prepare_data(first)
    for point in given(plan) or plan.corners():
        plan.experiment(point).model(prepared.spec)
    home = _home(plan, resume=resume)
    with connected(first.scaling):
        parent = Track(tracker.start(store_of(first), first.storage.root), home.name)
        own = {SWEEP: home.name, "gen_ray.kind": "sweep"}
        parent.open(name=plan.sweep.name, params=_params(plan, prepared), tags={**tags, **own})
        with recorded(parent):
            study = Study(plan, home)
            ledger = Ledger(study, parent, prepared, watch)
            ledger.reconcile()
            _run(ledger, cached(first, prepared), home)
            if study.unfinished() and not ledger.late():  # Ray Tune takes Ctrl-C for an order to end well
                raise EndedError(f"{home.name}: ended before all trials were done: --resume goes on from there", 130)
            outcome = conclude(study, home)
            show(parent, study, outcome, home)
    return outcome


def _home(plan: Plan, *, resume: bool) -> Path:
    """Return the sweep's folder: a new one, or that of the newest unfinished sweep of this name and content."""
    below, text = plan.first.storage.root / "sweeps", config.dump(plan)
    if resume:
        found = [home for home in runs.named(plan.sweep.name, below) if not (home / DONE).exists()]
        if not found:
            raise UserError(f"--resume: no unfinished sweep named {plan.sweep.name!r} in {below}")
        if (found[-1] / PLAN).read_text() != text:
            raise UserError(f"--resume: {found[-1] / PLAN} is not what is asked for now")
        return found[-1]
    home = below / runs.fresh(plan.sweep.name, below)
    home.mkdir(parents=True)
    (home / PLAN).write_text(text)
    return home


def _run(ledger: Ledger, splits: Splits, home: Path) -> None:
    plan = ledger.study.plan
    scaling, sweep = plan.first.scaling, plan.sweep
    gpus, alone = int(uses_gpu(scaling)), scaling.num_workers == 1
    each = 1 if alone and scaling.cpus_per_worker == "auto" else cpus_per_worker(scaling)
    # Several workers are booked by Ray Train: a trial that booked a part of a core as well might wait for its own.
    # Of nothing at all Ray Tune makes no place, so it is a megabyte.
    booked: dict[str, float] = {"cpu": each, "gpu": gpus} if alone else {"memory": 1e6}
    task = Task(tracker=ledger.parent.tracker, prepared=ledger.prepared.folder, splits=splits, cpus=each)
    there, worker = ray.cluster_resources(), {"CPU": each, **({"GPU": 1} if gpus else {})}
    room = min(int(there.get(kind, 0)) // (amount * scaling.num_workers) for kind, amount in worker.items())
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, task=task), booked),
        tune_config=tune.TuneConfig(
            search_alg=ledger,
            scheduler=_scheduler(plan),
            num_samples=ledger.study.wanted,
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
    with terminable():
        tuner.fit()


def _scheduler(plan: Plan) -> TrialScheduler:
    make = {"none": lambda _: FIFOScheduler(), "asha": _asha, "median": _median}[plan.sweep.scheduler.name]
    return make(plan)


def _mode(plan: Plan) -> dict[str, Any]:
    return {"time_attr": "epoch", "metric": plan.sweep.metric, "mode": plan.sweep.direction[:3]}


def _asha(plan: Plan) -> TrialScheduler:
    wanted = plan.sweep.scheduler
    # One more than there are: else it would end a trial at its last validation, before it is measured.
    beyond = max(experiment.training.epochs for experiment in plan.experiments) + 1
    return ASHAScheduler(
        max_t=beyond, grace_period=wanted.grace_epochs, reduction_factor=wanted.reduction, **_mode(plan)
    )


def _median(plan: Plan) -> TrialScheduler:
    return MedianStoppingRule(grace_period=plan.sweep.scheduler.grace_epochs, **_mode(plan))


def _params(plan: Plan, prepared: Prepared) -> dict[str, Any]:
    """Return a sweep's own settings as MLflow's params: an axis is one of them."""
    own = flatten(plan.sweep.model_dump(mode="json", exclude={"space", "settings"}))
    axes = plan.sweep.model_dump(mode="json", exclude_none=True, exclude_defaults=True)["space"]
    space = {f"space.{key}": config.label(axis) for key, axis in axes.items()}
    return {**dict(own), **space, "data.fingerprint": prepared.fingerprint[:12]}
