"""Population based training as a scheduler of Ray Tune: all trials wait for the last one, then the worst copy the best.

Not Ray Tune's own. That one refuses every searcher, so also the record of a sweep, and when it is synchronous, as this
one is, it decides only on a result: trials that wait for one that fails wait for ever, and one that is still saving may
be stopped. Here a turn is when every live trial is paused: nobody writes, so checkpoints can be copied as they stand.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gen_ray import run_directory
from gen_ray.datasets.prepared import Prepared
from gen_ray.engine.training import checkpoint_store, post_hoc_ema
from gen_ray.engine.training.loop import step_at
from gen_ray.experiment import Experiment
from gen_ray.sweeps import schedulers
from gen_ray.sweeps.config import DURING, SweepConfig, SweepPlan
from gen_ray.sweeps.population import donors

Copying = Callable[[int, int, int, np.random.Generator], Mapping[str, Any]]
"""Has a trial (its number) go on as a copy of another after so many epochs; returns what its configuration becomes."""


class PopulationScheduler(FIFOScheduler):
    """Has all trials train until an epoch, wait there, and go on until the next, the worst as copies of the best."""

    def __init__(
        self, plan: SweepPlan, numbers: Mapping[str, int], copy: Copying, *, first: int | None, room: int
    ) -> None:
        """Begin with no trial, of which at most room train at a time; the first turn is at an epoch, or there is none.

        Which number a live trial of Ray Tune's has in the record, numbers tells.
        """
        super().__init__()
        self.plan, self.numbers, self.copy, self.until, self.room = plan, numbers, copy, first, room
        self.trials = dict[str, Trial]()

    def full(self) -> bool:
        """Return whether as many trials train, or are about to, as there is room for. Those that wait need none."""
        return sum(trial.status in (Trial.PENDING, Trial.RUNNING) for trial in self.trials.values()) >= self.room

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Tell a trial where it is to wait first, or again after its process was lost."""
        self.trials[trial.trial_id] = trial
        trial.set_config({**trial.config, "until": self.until})

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause a trial that has come to where it is to wait; what it validates on the way decides nothing."""
        return str(TrialScheduler.PAUSE if "waits" in result else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return a trial that has not come to the next turn yet, after taking the turn if it is time."""
        live = [trial for trial in self.trials.values() if not trial.is_finished()]
        if live and self.until and all(trial.status == Trial.PAUSED for trial in live):
            self._turn(live, self.until)
        paused = (trial for trial in live if trial.status == Trial.PAUSED)
        behind = (trial for trial in paused if trial.last_result["epoch"] != self.until)
        return None if self.full() else next(behind, None)

    def _turn(self, trials: Iterable[Trial], epoch: int) -> None:
        sweep, rng = self.plan.sweep, np.random.default_rng((self.plan.sweep.searcher.seed, epoch))
        live = {self.numbers[trial.trial_id]: trial for trial in trials}
        losses = {number: sweep.sign * float(trial.last_result[DURING]) for number, trial in live.items()}
        wanted = population(sweep)
        chosen = donors(losses, wanted.quantile, rng)
        self.until = _before_the_end(epoch + wanted.interval_epochs, self.plan)
        for number, trial in live.items():
            changed = self.copy(number, chosen[number], epoch, rng) if number in chosen else {}
            minutes = trial.last_result["train/minutes"]
            trial.set_config({**trial.config, **changed, "until": self.until, "minutes": minutes})


def population(sweep: SweepConfig) -> schedulers.PopulationConfig:
    """Return what a sweep says of its population."""
    assert isinstance(sweep.scheduler, schedulers.PopulationConfig), "asked only where there is one"
    return sweep.scheduler


def first_turn(plan: SweepPlan, prepared: Prepared, homes: Iterable[Path]) -> int | None:
    """Return the epoch of the first turn that no run in these folders is past: after a kill some are further."""
    size, rows, interval = plan.first.data.batch_size, prepared.rows["train"], population(plan.sweep).interval_epochs
    kept = [folder for home in homes for folder in checkpoint_store.checkpoints(home).folders()]
    newest = max(map(checkpoint_store.step_of, kept), default=0)
    turn = next(epoch for epoch in count(interval, interval) if step_at(epoch, size, rows) >= newest)
    return _before_the_end(turn, plan)


def _before_the_end(epoch: int, plan: SweepPlan) -> int | None:
    return epoch if epoch < plan.first.training.epochs else None


def exploit(experiment: Experiment, run_id: str, donor_id: str) -> None:
    """Have a run's folder go on as a copy of another's. The configuration, written last, tells that it is done."""
    home, donor = run_directory.folder(experiment, run_id), run_directory.folder(experiment, donor_id)
    for place in (checkpoint_store.checkpoints, post_hoc_ema.snapshots):
        place(home).replace_with(place(donor))
    run_directory.save(experiment, run_id)
