"""A sweep's record as Ray Tune's searcher, and the one who tells MLflow how each trial ended."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from gen_ray import run_directory
from gen_ray.cluster.jobs.queue import QueueSlot
from gen_ray.cluster.sweeps.population import PopulationScheduler, exploit, population
from gen_ray.cluster.sweeps.report import trial_run
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import params
from gen_ray.cluster.training.train import OnProgress
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment
from gen_ray.sweeps import config
from gen_ray.sweeps.config import Point
from gen_ray.sweeps.population import explored
from gen_ray.sweeps.study import FAILED, LIVE, STOPPED, Study, TrialCopy, TrialResult

SWEEP = "gen_ray.sweep"
IMPOSSIBLE = "impossible"
"""The reason of a trial whose settings do not go together, which MLflow does not have."""


class StudySearcher(Searcher):
    """Ray Tune's view of a study. It also tells MLflow how each trial ended, which a stopped trial cannot do itself."""

    def __init__(
        self, study: Study, parent: RunLogger, prepared: Prepared, turn: QueueSlot, watch: OnProgress | None
    ) -> None:
        """Begin with no trial running."""
        super().__init__()
        self.study, self.parent, self.prepared, self.turn, self.watch = study, parent, prepared, turn, watch
        self.numbers: dict[str, int] = {}
        self.population: PopulationScheduler | None = None
        self.began = time.monotonic()

    def late(self) -> bool:
        """Return whether the time in which trials may begin is over."""
        minutes = self.study.sweep.minutes
        return minutes is not None and time.monotonic() - self.began > 60 * minutes

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's configuration, None while it is others' turn."""
        if self.population and self.population.full():
            return None
        if self.late() or self.study.exhausted():
            # As long as more trials may come, Ray Tune keeps processes, in which those that wait can go on at once.
            return None if self.population and self.numbers else Searcher.FINISHED
        if not self.turn.granted(len(self.numbers)):
            return None
        number, point = self.study.ask()
        try:
            experiment, run_id = self._open(number, point), self.track(number).run_id
        except UserError as error:  # a combination that no corner has shown: only this trial fails
            self.study.tell(number, {}, error=str(error), reason=IMPOSSIBLE)
            return None
        self.numbers[trial_id] = number
        copies = self.study.copies(number)
        root = experiment.storage.root  # the storage may have been moved
        if copies and run_directory.at(run_directory.load(self.home(number)), root).resolved() != experiment.resolved():
            # A driver died in between.
            exploit(experiment, run_id, self.track(copies[-1].donor).run_id)
        return {"run_id": run_id, "experiment": json.dumps(experiment.resolved())}

    def copy(self, number: int, donor: int, epoch: int, rng: np.random.Generator) -> dict[str, str]:
        """Have a trial go on as a copy of another with settings near that one's; return what it is to train now."""
        sweep, study = self.study.sweep, self.study
        point = explored(sweep.space, study.point(donor), population(sweep).resample, rng)
        told = _told(study.copy(number, TrialCopy(epoch=epoch, donor=donor, point=point)))
        experiment = study.plan.experiment(point)
        exploit(experiment, self.track(number).run_id, self.track(donor).run_id)
        self.track(number).tag(told)
        return {"experiment": json.dumps(experiment.resolved())}

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
            if result.state != LIVE and result.reason != IMPOSSIBLE:
                self._open(result.number, result.point)
                self._close(result)

    def _close(self, result: TrialResult) -> None:
        track = self.track(result.number)
        if result.error:
            track.tag({"error": result.error[:500], "reason": result.reason})
        if result.state == STOPPED:
            track.tag({"stopped_early": f"after epoch {result.stopped_at}"})
        if result.copies:
            track.tag(_told(result.copies))
        track.end("FAILED" if result.state == FAILED else "FINISHED")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the trial tells MLflow itself."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended, in the study and in MLflow."""
        number, found = self.numbers.pop(trial_id), result or {}
        metrics = {key: float(value) for key, value in found.items() if "/" in key and isinstance(value, int | float)}
        wrong = "its process was lost too often" if error else str(found.get("error", ""))
        reason = "lost" if error else str(found.get("reason", ""))
        stopped_at = None if found.get("ended") else found.get("epoch")
        self._close(self.study.tell(number, metrics, error=wrong, reason=reason, stopped_at=stopped_at))
        self.turn.tell(len(self.numbers))
        if self.watch is not None:
            ended = sum(result.state != LIVE for result in self.study.results())
            self.watch(ended, self.study.wanted, {})

    def break_off(self) -> None:
        """Tell MLflow that trials have ended which nobody trains any more; a sweep resumed opens them again."""
        for result in self.study.results():
            if result.state == LIVE:
                self.track(result.number).end("KILLED")

    def track(self, number: int) -> RunLogger:
        """Return the track of a trial's run."""
        return RunLogger(self.parent.tracker, trial_run(self.parent.run_id, number))

    def home(self, number: int) -> Path:
        """Return the folder of a trial's run."""
        return run_directory.folder(self.study.plan.first, self.track(number).run_id)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's file is the only memory there is."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "StudySearcher":
        """Stay the one that there is."""
        return self

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Leave nothing of it in what Ray Tune pickles for a restoration that is not used."""
        return Searcher, ()


def _told(copies: Sequence[TrialCopy]) -> dict[str, str]:
    """Return the tags of a trial that went on as copies of others: MLflow's params are what it began with."""
    ended = {f"final.{key}": str(config.label(value)) for key, value in copies[-1].point.items()}
    return {"exploited": ", ".join(map(str, copies)), **ended}
