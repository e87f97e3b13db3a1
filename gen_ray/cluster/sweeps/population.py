"""Population based training as a synchronous scheduler of Ray Tune: all trials wait, then the worst copy the best.

Ray Tune's own scheduler does not fit. It refuses all searchers, so also a sweep's study. In synchronous mode it decides
only on results: trials that wait for a failed trial wait endlessly, and a trial may be stopped while it saves. Here a
round of copying takes place when all live trials are paused: no process writes, so checkpoints can be copied safely.
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
from gen_ray.metrics import TRAINING_MINUTES
from gen_ray.sweeps import schedulers
from gen_ray.sweeps.config import DURING, SweepConfig, SweepPlan
from gen_ray.sweeps.population import donors

Copying = Callable[[int, int, int, np.random.Generator], Mapping[str, Any]]
"""(number, donor, epoch, rng) -> changes of the configuration: makes a trial continue as a copy of the donor trial."""


class PopulationScheduler(FIFOScheduler):
    """Trains all trials until an epoch and pauses them; then all continue, the worst ones as copies of the best."""

    def __init__(
        self, plan: SweepPlan, numbers: Mapping[str, int], copy: Copying, *, first: int | None, room: int
    ) -> None:
        """Create a scheduler without trials.

        numbers maps Ray Tune's trial ids to the study's numbers. first is the epoch of the first round of copying, or
        None. At most room trials train at a time.
        """
        super().__init__()
        self.plan, self.numbers, self.copy, self.until, self.room = plan, numbers, copy, first, room
        self.trials = dict[str, Trial]()

    def full(self) -> bool:
        """Return whether room trials train or are about to. Paused trials do not count."""
        return sum(trial.status in (Trial.PENDING, Trial.RUNNING) for trial in self.trials.values()) >= self.room

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Set the epoch at which a trial pauses first; called again after its process was lost."""
        self.trials[trial.trial_id] = trial
        trial.set_config({**trial.config, "until": self.until})

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause a trial that has reached its epoch; earlier validations decide nothing."""
        return str(TrialScheduler.PAUSE if "waits" in result else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return a trial that has not reached the next epoch of copying, after copying if all trials are paused."""
        live = [trial for trial in self.trials.values() if not trial.is_finished()]
        if live and self.until and all(trial.status == Trial.PAUSED for trial in live):
            self._copy_round(live, self.until)
        paused = (trial for trial in live if trial.status == Trial.PAUSED)
        behind = (trial for trial in paused if trial.last_result["epoch"] != self.until)
        return None if self.full() else next(behind, None)

    def _copy_round(self, trials: Iterable[Trial], epoch: int) -> None:
        sweep, rng = self.plan.sweep, np.random.default_rng((self.plan.sweep.searcher.seed, epoch))
        live = {self.numbers[trial.trial_id]: trial for trial in trials}
        losses = {number: sweep.sign * float(trial.last_result[DURING]) for number, trial in live.items()}
        settings = population(sweep)
        chosen = donors(losses, settings.quantile, rng)
        self.until = _before_the_end(epoch + settings.interval_epochs, self.plan)
        for number, trial in live.items():
            changed = self.copy(number, chosen[number], epoch, rng) if number in chosen else {}
            minutes = trial.last_result[TRAINING_MINUTES.name]
            trial.set_config({**trial.config, **changed, "until": self.until, "minutes": minutes})


def population(sweep: SweepConfig) -> schedulers.PopulationConfig:
    """Return the population settings of a sweep."""
    assert isinstance(sweep.scheduler, schedulers.PopulationConfig), "the sweep must have a population scheduler"
    return sweep.scheduler


def first_copy_epoch(plan: SweepPlan, prepared: Prepared, homes: Iterable[Path]) -> int | None:
    """Return the epoch of the first round of copying that no run in homes has passed; after a kill, runs differ."""
    size, rows, interval = plan.first.data.batch_size, prepared.rows["train"], population(plan.sweep).interval_epochs
    checkpoints = [folder for home in homes for folder in checkpoint_store.checkpoints(home).folders()]
    newest = max(map(checkpoint_store.step_of, checkpoints), default=0)
    epoch = next(epoch for epoch in count(interval, interval) if step_at(epoch, size, rows) >= newest)
    return _before_the_end(epoch, plan)


def _before_the_end(epoch: int, plan: SweepPlan) -> int | None:
    return epoch if epoch < plan.first.training.epochs else None


def exploit(experiment: Experiment, run_id: str, donor_id: str) -> None:
    """Make a run's folder a copy of another's. The configuration is written last and marks the copy as complete."""
    home, donor = run_directory.folder(experiment, run_id), run_directory.folder(experiment, donor_id)
    for folders in (checkpoint_store.checkpoints, post_hoc_ema.snapshots):
        folders(home).replace_with(folders(donor))
    run_directory.save(experiment, run_id)
