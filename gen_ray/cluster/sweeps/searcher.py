"""Ray Tune searcher that is backed by a sweep's study and records in MLflow how each trial ended."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from gen_ray import run_directory
from gen_ray.cluster.jobs.queue import QueueSlot
from gen_ray.cluster.sweeps.data import SweepData
from gen_ray.cluster.sweeps.population import PopulationScheduler, exploit, population
from gen_ray.cluster.sweeps.report import trial_run
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.cluster.tracking.run_logging import params
from gen_ray.cluster.training.train import OnProgress
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment
from gen_ray.sweeps.axes import Point, label, words
from gen_ray.sweeps.population import explore
from gen_ray.sweeps.study import FAILED, LIVE, STOPPED, Study, TrialCopy, TrialResult

SWEEP = "gen_ray.sweep"
IMPOSSIBLE = "impossible"
"""Reason of a trial with incompatible settings, which gets no run in MLflow."""


class StudySearcher(Searcher):
    """Ray Tune's searcher of a study. It also records in MLflow how trials ended, as a stopped trial cannot do so."""

    def __init__(
        self, study: Study, parent: RunLogger, data: SweepData, slot: QueueSlot, watch: OnProgress | None
    ) -> None:
        """Create a searcher without running trials; slot is the sweep's slot in the cluster's queue."""
        super().__init__()
        self.study, self.parent, self.data, self.slot, self.watch = study, parent, data, slot, watch
        self.numbers: dict[str, int] = {}
        self.population: PopulationScheduler | None = None
        self.began = time.monotonic()

    def late(self) -> bool:
        """Return whether the time limit for starting trials has passed."""
        minutes = self.study.sweep.minutes
        return minutes is not None and time.monotonic() - self.began > 60 * minutes

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's configuration, or None while the queue grants no start."""
        if self.population and self.population.full():
            return None
        if self.late() or self.study.exhausted():
            # While more trials may come, Ray Tune keeps idle processes, in which paused trials can continue at once.
            return None if self.population and self.numbers else Searcher.FINISHED
        if not self.slot.granted(len(self.numbers)):
            return None
        number, point = self.study.ask()
        try:
            experiment, run_id = self._open(number, point), self.track(number).run_id
        except UserError as error:  # a combination that the checked corners do not cover: only this trial fails
            self.study.tell(number, {}, error=str(error), reason=IMPOSSIBLE)
            return None
        self.numbers[trial_id] = number
        copies = self.study.copies(number)
        root = experiment.storage.root  # storage.root may have moved
        if copies and run_directory.at(run_directory.load(self.home(number)), root).resolved() != experiment.resolved():
            # A driver died between the study's record and the copy.
            exploit(experiment, run_id, self.track(copies[-1].donor).run_id)
        return {"run_id": run_id, "experiment": json.dumps(experiment.resolved())}

    def copy(self, number: int, donor: int, epoch: int, rng: np.random.Generator) -> dict[str, str]:
        """Make a trial continue as a copy of another with settings near the donor's; return its new configuration."""
        sweep, study = self.study.sweep, self.study
        point = explore(sweep.space, study.point(donor), population(sweep).resample, rng)
        tags = _copy_tags(study.copy(number, TrialCopy(epoch=epoch, donor=donor, point=point)))
        experiment = study.plan.experiment(point)
        exploit(experiment, self.track(number).run_id, self.track(donor).run_id)
        self.track(number).set_tags(tags)
        return {"experiment": json.dumps(experiment.resolved())}

    def _open(self, number: int, point: Point) -> Experiment:
        """Open a trial's MLflow run as a child of the sweep's run, and return the trial's experiment."""
        experiment = self.study.plan.experiment(point)
        self.track(number).open(
            name=f"{number:03d} {words(point)}",
            params=params(experiment, self.data.of(experiment)),
            tags={SWEEP: self.parent.run_id, "gen_ray.trial": f"{number:03d}"},
            parent=self.parent.run_id,
        )
        return experiment

    def reconcile(self) -> None:
        """Record the ended trials in MLflow again: an earlier driver may have died before it did so."""
        for result in self.study.results():
            if result.state != LIVE and result.reason != IMPOSSIBLE:
                self._open(result.number, result.point)
                self._close(result)

    def _close(self, result: TrialResult) -> None:
        track = self.track(result.number)
        if result.error:
            track.set_tags({"error": result.error[:500], "reason": result.reason})
        if result.state == STOPPED:
            track.set_tags({"stopped_early": f"after epoch {result.stopped_at}"})
        if result.copies:
            track.set_tags(_copy_tags(result.copies))
        track.end("FAILED" if result.state == FAILED else "FINISHED")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the trial reports to MLflow itself."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended in the study and in MLflow."""
        number, report = self.numbers.pop(trial_id), result or {}
        metrics = {key: float(value) for key, value in report.items() if "/" in key and isinstance(value, int | float)}
        wrong = "its process died too often" if error else str(report.get("error", ""))
        reason = "lost" if error else str(report.get("reason", ""))
        stopped_at = None if report.get("ended") else report.get("epoch")
        self._close(self.study.tell(number, metrics, error=wrong, reason=reason, stopped_at=stopped_at))
        self.slot.tell(len(self.numbers))
        if self.watch is not None:
            ended = sum(result.state != LIVE for result in self.study.results())
            self.watch(ended, self.study.trial_count, {})

    def end_unfinished(self) -> None:
        """End the runs of unfinished trials as KILLED; a resumed sweep opens them again."""
        for result in self.study.results():
            if result.state == LIVE:
                self.track(result.number).end("KILLED")

    def track(self, number: int) -> RunLogger:
        """Return the logger of a trial's run."""
        return RunLogger(self.parent.tracker, trial_run(self.parent.run_id, number))

    def home(self, number: int) -> Path:
        """Return the folder of a trial's run."""
        return run_directory.folder(self.study.plan.first, self.track(number).run_id)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's file is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study restores itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "StudySearcher":
        """Return self: the searcher is a singleton."""
        return self

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Pickle as an empty Searcher: Ray Tune's own restoration is not used."""
        return Searcher, ()


def _copy_tags(copies: Sequence[TrialCopy]) -> dict[str, str]:
    """Return the tags of a trial that continued as copies of others: MLflow's params keep its first settings."""
    ended = {f"final.{key}": str(label(value)) for key, value in copies[-1].point.items()}
    return {"exploited": ", ".join(map(str, copies)), **ended}
