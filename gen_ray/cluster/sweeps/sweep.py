"""A sweep on Ray Tune: the study chooses the points, and each trial is an MLflow run below one parent run."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from gen_ray import resumption, run_directory
from gen_ray.cluster.jobs.queue import queue_slot
from gen_ray.cluster.nodes.connect import (
    available_resources,
    connected,
    cpus_per_worker,
    needs,
    ray_storage,
    terminable,
)
from gen_ray.cluster.sweeps.data import SweepData
from gen_ray.cluster.sweeps.population import PopulationScheduler, first_copy_epoch
from gen_ray.cluster.sweeps.report import DONE, PLAN, SweepOutcome, conclude, show
from gen_ray.cluster.sweeps.schedulers import stopping
from gen_ray.cluster.sweeps.searcher import SWEEP, StudySearcher
from gen_ray.cluster.sweeps.trial import Task, trial
from gen_ray.cluster.tracking import logger_actor
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import recorded, wait_until_open
from gen_ray.cluster.training.train import OnProgress, report_large_batch, report_unmeasured, written
from gen_ray.errors import EndedError, UserError, argument
from gen_ray.experiment import Scaling, flatten
from gen_ray.resumption import Resumed
from gen_ray.storage import lease
from gen_ray.storage.cleanup import cleanup_on_error
from gen_ray.storage.paths import write_atomic
from gen_ray.sweeps import config, journal, schedulers
from gen_ray.sweeps.axes import label
from gen_ray.sweeps.config import SweepPlan
from gen_ray.sweeps.points import predetermined_points
from gen_ray.sweeps.study import RECORD, Study
from gen_ray.tracking.store import Store

SWEEPS = "sweeps"


def sweep(
    plan: SweepPlan,
    *,
    resume: bool = False,
    take_over: bool = False,
    accept_data: bool = False,
    watch: OnProgress | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> SweepOutcome:
    """Run a sweep and return its outcome. A failed trial is listed in the table and does not end the sweep.

    The options are those of train. Raise UserError for an impossible point before anything starts, RunError if the
    sweep itself cannot continue.
    """
    first = plan.first
    store = Store.of_experiment(first)  # fails here if the address is wrong
    data = SweepData.prepare(plan)
    _check(plan, data)
    resumed = _resumed(plan, data, accept_data=accept_data) if resume else None
    with ExitStack() as leases:  # released last, when no trial writes into its folder
        leases.enter_context(cleanup_on_error(*written(first.storage.root, SWEEPS)))
        if resumed:
            leases.enter_context(lease.acquire(resumed.home, take_over=take_over))
            resumed.state()
        with connected(first.scaling):
            cpus = _cpus(first.scaling)
            each = needs(first.scaling, cpus)  # raises UserError if GPUs are missing
            home = resumed.home if resumed else run_directory.create(plan.sweep.name, first.storage.root / SWEEPS)
            parent = RunLogger(logger_actor.start(store, first.storage.root), home.name)
            own = {SWEEP: home.name, "gen_ray.kind": "sweep", **(resumed.tags if resumed else {})}
            parent.open(name=plan.sweep.name, params=_params(plan, data), tags={**tags, **own})
            wait_until_open(parent, home, is_new=resumed is None)
            with recorded(parent):
                write_atomic(home / PLAN, config.dump(plan))
                resumption.keep_data(home, *data.all)
                if not resumed:
                    leases.enter_context(lease.acquire(home))
                return _swept(plan, data, parent, home, each, cpus, watch)


def _check(plan: SweepPlan, data: SweepData) -> None:
    """Log what the data do not allow. Raise UserError for a point whose model does not suit its data."""
    report_unmeasured(data.first, needed=plan.sweep.metric)
    report_large_batch(max(plan.experiments, key=lambda trial: trial.data.batch_size), data.first)
    for point in predetermined_points(plan) or plan.corners():
        experiment = plan.experiment(point)
        experiment.model(data.of(experiment).spec)


def _swept(
    plan: SweepPlan,
    data: SweepData,
    parent: RunLogger,
    home: Path,
    each: Mapping[str, float],
    cpus: int,
    watch: OnProgress | None,
) -> SweepOutcome:
    """Run the trials of a sweep that is open in MLflow, each with the resources in each, and conclude the sweep."""
    first, study = plan.first, Study(plan, home)
    most = min(plan.sweep.concurrency or _room(each), study.trial_count)
    together = isinstance(plan.sweep.scheduler, schedulers.PopulationConfig)
    with queue_slot(home.name, first.scaling.priority, each, parent.tracker, most, together=together) as slot:
        searcher = StudySearcher(study, parent, data, slot, watch)
        searcher.reconcile()
        task = Task(parent.tracker, data.cached(first), cpus)
        try:
            _run(searcher, task, each, most, home)
        finally:
            searcher.end_unfinished()
    if study.unfinished() and not searcher.late():  # Ray Tune returns normally after Ctrl-C
        raise EndedError(
            f"{home.name}: ended before all trials were done; {argument('resume')} continues from there", 130
        )
    outcome = conclude(study, home)
    show(parent, study, outcome, home)
    return outcome


def _resumed(plan: SweepPlan, data: SweepData, *, accept_data: bool) -> Resumed:
    """Return the newest unfinished sweep with this name and plan. Raise UserError if there is none."""
    below = plan.first.storage.root / SWEEPS
    homes = [home for home in run_directory.named(plan.sweep.name, below) if (home / PLAN).is_file()]
    homes = [home for home in homes if not (home / DONE).exists()]
    if not homes:
        raise UserError(f"no unfinished sweep named {plan.sweep.name!r} in {below}", field="resume")
    home = resumption.newest(
        homes,
        started=lambda home: (home / RECORD).exists(),
        same=lambda home: not _changed(home, plan),
    )
    if changed := _changed(home, plan):
        keys = ", ".join(changed[:3])
        raise UserError(f"{home / PLAN} differs from the given sweep ({keys}); give the same sweep", field="resume")
    journal.check(home / RECORD)
    resumed = Resumed(home)
    resumption.check_data(resumed, *data.all, accept_data=accept_data)
    return resumed


def _changed(home: Path, plan: SweepPlan) -> list[str]:
    return config.differences((home / PLAN).read_bytes(), plan)


def _cpus(scaling: Scaling) -> int:
    """Return the cores of a trial's worker. One core suffices for single-worker trials, because many run at once."""
    single_worker = scaling.num_workers == 1 and scaling.cpus_per_worker == "auto"
    return 1 if single_worker else cpus_per_worker(scaling)


def _room(each: Mapping[str, float]) -> int:
    """Return how many trials the cluster can run at once, at least 1: it may grow, or report that it cannot."""
    return max(1, int(min(available_resources().get(kind, 0) // amount for kind, amount in each.items())))


def _run(searcher: StudySearcher, task: Task, each: Mapping[str, float], most: int, home: Path) -> None:
    plan = searcher.study.plan
    single_worker, sweep = plan.first.scaling.num_workers == 1, plan.sweep
    # Ray Train reserves the resources of several workers: a trial that also held a core might block its own workers.
    # Ray Tune needs some resource for a placement group, so the trial reserves a megabyte.
    booked = {kind.lower(): amount for kind, amount in each.items()} if single_worker else {"memory": 1e6}
    together = isinstance(sweep.scheduler, schedulers.PopulationConfig)
    scheduler = _population(searcher, most) if together else stopping(plan)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, task=task), booked),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=searcher.study.trial_count + 1,  # the searcher ends the sweep
            max_concurrent_trials=None if together else most,
            reuse_actors=single_worker and not searcher.slot.shared,  # an idle process keeps its core
            trial_dirname_creator=str,
            trial_name_creator=str,
        ),
        run_config=tune.RunConfig(
            name="tune",
            **ray_storage(home),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
        ),
    )
    with terminable():
        tuner.fit()


def _population(searcher: StudySearcher, room: int) -> TrialScheduler:
    """Return a population's scheduler. The searcher asks it for capacity, because Ray Tune counts paused trials."""
    study, numbers = searcher.study, searcher.numbers
    first = first_copy_epoch(study.plan, searcher.data.first, [searcher.home(trial.number) for trial in study.waiting])
    searcher.population = PopulationScheduler(study.plan, numbers, searcher.copy, first=first, room=room)
    return searcher.population


def _params(plan: SweepPlan, data: SweepData) -> dict[str, Any]:
    """Return a sweep's own settings and its axes as MLflow params."""
    own = flatten(plan.sweep.model_dump(mode="json", exclude={"space", "settings"}))
    axes = plan.sweep.model_dump(mode="json", exclude_none=True, exclude_defaults=True)["space"]
    space = {f"space.{key}": label(axis) for key, axis in axes.items()}
    fingerprints = ", ".join(prepared.fingerprint[:12] for prepared in data.all)
    return {**dict(own), **space, "data.fingerprint": fingerprints}
