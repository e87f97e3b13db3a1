"""A sweep on Ray Tune: the study says what to try, trials are runs of their own, MLflow shows them below one parent."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from gen_ray import resumption, run_directory
from gen_ray.cluster.data.blocks import cached
from gen_ray.cluster.jobs.queue import turn
from gen_ray.cluster.jobs.waiting import awaited
from gen_ray.cluster.nodes.connect import connected, cpus_per_worker, in_reach, needs, ray_storage, terminable
from gen_ray.cluster.sweeps.population import PopulationScheduler, first_turn
from gen_ray.cluster.sweeps.report import DONE, PLAN, SweepOutcome, conclude, show
from gen_ray.cluster.sweeps.schedulers import stopping
from gen_ray.cluster.sweeps.searcher import SWEEP, StudySearcher
from gen_ray.cluster.sweeps.trial import Task, trial
from gen_ray.cluster.tracking import logger_actor
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import opened, recorded
from gen_ray.cluster.training.train import (
    OnProgress,
    prepare_data,
    report_large_batch,
    report_unmeasured,
    store_of,
    written,
)
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import EndedError, UserError
from gen_ray.experiment import Scaling, flatten
from gen_ray.resumption import Resumed
from gen_ray.storage import lease
from gen_ray.storage.paths import without_traces, write_whole
from gen_ray.sweeps import config, journal, schedulers
from gen_ray.sweeps.config import SweepPlan
from gen_ray.sweeps.points import predetermined_points
from gen_ray.sweeps.study import RECORD, Study

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
    """Try what the plan says, and return what came of it. A failed trial is in the table and ends nothing else.

    The other options are those of train. Raise UserError for an impossible point before anything starts, RunError where
    the sweep itself cannot go on.
    """
    first = plan.first
    store = store_of(first)  # a wrong address ends the command here
    prepared = prepare_data(first)
    report_unmeasured(prepared, needed=plan.sweep.metric)
    report_large_batch(max(plan.experiments, key=lambda trial: trial.data.batch_size), prepared)
    for point in predetermined_points(plan) or plan.corners():
        plan.experiment(point).model(prepared.spec)
    resumed = _resumed(plan, prepared, accept_data=accept_data) if resume else None
    with ExitStack() as leases:  # the last to end: by then no trial writes into its folder
        leases.enter_context(without_traces(*written(first.storage.root, SWEEPS)))
        if resumed:
            leases.enter_context(lease.held(resumed.home, take_over=take_over))
            resumed.state()
        with connected(first.scaling):
            cpus = _cpus(first.scaling)
            each = needs(first.scaling, cpus)  # refuses a lack of GPUs
            home = resumed.home if resumed else run_directory.create(plan.sweep.name, first.storage.root / SWEEPS)
            parent = RunLogger(logger_actor.start(store, first.storage.root), home.name)
            own = {SWEEP: home.name, "gen_ray.kind": "sweep", **(resumed.tags if resumed else {})}
            parent.open(name=plan.sweep.name, params=_params(plan, prepared), tags={**tags, **own})
            opened(parent, home, is_new=resumed is None)
            with recorded(parent):
                write_whole(home / PLAN, config.dump(plan))
                resumption.keep_data(home, prepared)
                if not resumed:
                    leases.enter_context(lease.held(home))
                return _swept(plan, prepared, parent, home, each, cpus, watch)


def _swept(
    plan: SweepPlan,
    prepared: Prepared,
    parent: RunLogger,
    home: Path,
    each: Mapping[str, float],
    cpus: int,
    watch: OnProgress | None,
) -> SweepOutcome:
    """Run the trials of a sweep that is open in MLflow, each with its needs, and conclude it."""
    first, study = plan.first, Study(plan, home)
    most = min(plan.sweep.concurrency or _room(each), study.wanted)
    together = isinstance(plan.sweep.scheduler, schedulers.PopulationConfig)
    with turn(home.name, first.scaling.priority, each, parent.tracker, most, together=together) as place:
        ledger = StudySearcher(study, parent, prepared, place, watch)
        ledger.reconcile()
        task = Task(parent.tracker, prepared.folder, awaited(partial(cached, first, prepared)), cpus)
        try:
            _run(ledger, task, each, most, home)
        finally:
            ledger.break_off()
    if study.unfinished() and not ledger.late():  # Ray Tune takes Ctrl-C for an order to end well
        raise EndedError(f"{home.name}: ended before all trials were done: --resume goes on from there", 130)
    outcome = conclude(study, home)
    show(parent, study, outcome, home)
    return outcome


def _resumed(plan: SweepPlan, prepared: Prepared, *, accept_data: bool) -> Resumed:
    """Return the newest unfinished sweep of this name and content. Raise UserError."""
    below = plan.first.storage.root / SWEEPS
    found = [home for home in run_directory.named(plan.sweep.name, below) if (home / PLAN).is_file()]
    found = [home for home in found if not (home / DONE).exists()]
    if not found:
        raise UserError(f"--resume: no unfinished sweep named {plan.sweep.name!r} in {below}")
    home = resumption.newest(
        found,
        started=lambda home: (home / RECORD).exists(),
        same=lambda home: not _changed(home, plan),
    )
    if changed := _changed(home, plan):
        keys = ", ".join(changed[:3])
        raise UserError(f"--resume: {home / PLAN} is not what is asked for now ({keys}); ask for the same sweep")
    journal.check(home / RECORD)
    resumed = Resumed(home)
    resumption.check_data(resumed, prepared, accept_data=accept_data)
    return resumed


def _changed(home: Path, plan: SweepPlan) -> list[str]:
    return config.differences((home / PLAN).read_bytes(), plan)


def _cpus(scaling: Scaling) -> int:
    """Return the cores of a trial's worker: where there is one alone, so many trials run at once that one will do."""
    alone = scaling.num_workers == 1 and scaling.cpus_per_worker == "auto"
    return 1 if alone else cpus_per_worker(scaling)


def _room(each: Mapping[str, float]) -> int:
    """Return how many trials the cluster has room for, at least one: it may grow, or tell that it cannot."""
    return max(1, int(min(in_reach().get(kind, 0) // amount for kind, amount in each.items())))


def _run(ledger: StudySearcher, task: Task, each: Mapping[str, float], most: int, home: Path) -> None:
    plan = ledger.study.plan
    alone, sweep = plan.first.scaling.num_workers == 1, plan.sweep
    # Several workers are booked by Ray Train: a trial that booked a part of a core as well might wait for its own.
    # Of nothing at all Ray Tune makes no place, so it is a megabyte.
    booked = {kind.lower(): amount for kind, amount in each.items()} if alone else {"memory": 1e6}
    together = isinstance(sweep.scheduler, schedulers.PopulationConfig)
    scheduler = _population(ledger, most) if together else stopping(plan)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, task=task), booked),
        tune_config=tune.TuneConfig(
            search_alg=ledger,
            scheduler=scheduler,
            num_samples=ledger.study.wanted + 1,  # the ledger says when there are no more
            max_concurrent_trials=None if together else most,
            reuse_actors=alone and not ledger.turn.shared,  # a process kept idle keeps its core
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


def _population(ledger: StudySearcher, room: int) -> TrialScheduler:
    """Return the scheduler of a population. The ledger asks it for room: to Ray Tune, trials that wait take some."""
    study, numbers = ledger.study, ledger.numbers
    first = first_turn(study.plan, ledger.prepared, [ledger.home(trial.number) for trial in study.waiting])
    ledger.population = PopulationScheduler(study.plan, numbers, ledger.copy, first=first, room=room)
    return ledger.population


def _params(plan: SweepPlan, prepared: Prepared) -> dict[str, Any]:
    """Return a sweep's own settings as MLflow's params: an axis is one of them."""
    own = flatten(plan.sweep.model_dump(mode="json", exclude={"space", "settings"}))
    axes = plan.sweep.model_dump(mode="json", exclude_none=True, exclude_defaults=True)["space"]
    space = {f"space.{key}": config.label(axis) for key, axis in axes.items()}
    return {**dict(own), **space, "data.fingerprint": prepared.fingerprint[:12]}
