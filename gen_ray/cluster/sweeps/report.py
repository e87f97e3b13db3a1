"""Results of a finished sweep: the table, its pictures, and the records of the parent run in MLflow."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gen_ray import run_directory
from gen_ray.cluster.sweeps.trial import SAMPLES
from gen_ray.cluster.tracking.logger_actor import RunLogger
from gen_ray.engine.plots import grids
from gen_ray.storage.paths import write_atomic
from gen_ray.sweeps.axes import words
from gen_ray.sweeps.pictures import pictures
from gen_ray.sweeps.study import RECORD, Study, TrialResult, table

PLAN, DONE = "sweep.yaml", "table.csv"


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """The outcome of a finished sweep: results, table, and the run id of the best trial."""

    sweep_id: str
    results: list[TrialResult]
    header: list[str]
    lines: list[list[str]]
    best: str | None


def trial_run(sweep_id: str, number: int) -> str:
    """Return a trial's run id. Unlike the ids of other runs it does not end in a time, so the two never coincide."""
    return f"{sweep_id}.{number:03d}"


def conclude(study: Study, home: Path) -> SweepOutcome:
    """Write the table, which marks the sweep as finished, and return the outcome."""
    results, best = study.results(), study.best()
    header, lines = table(results, study.sweep.space, study.sweep.metric)
    with io.StringIO() as text:
        csv.writer(text).writerows(
            [
                ["run", *header],
                *([trial_run(home.name, r.number), *line] for r, line in zip(results, lines, strict=True)),
            ]
        )
        write_atomic(home / DONE, text.getvalue())
    return SweepOutcome(
        sweep_id=home.name,
        results=results,
        header=header,
        lines=lines,
        best=trial_run(home.name, best[0].number) if best else None,
    )


def show(parent: RunLogger, study: Study, outcome: SweepOutcome, home: Path) -> None:
    """Record in the parent run the table, the pictures, and the best trials' samples side by side."""
    for name in (DONE, PLAN, RECORD):
        parent.log_artifact(home / name, "sweep")
    drawn = pictures(study)
    best, samples = study.best(), {}
    for result in best[: study.sweep.best]:
        file = run_directory.folder(study.plan.first, trial_run(home.name, result.number)) / SAMPLES
        if file.exists():
            title = f"{result.number:03d} {words(result.point)}: {result.value:.3f}"
            samples[title] = np.asarray(Image.open(io.BytesIO(file.read_bytes()), formats=("PNG",)))
    if samples:
        drawn["best_samples"] = grids.panel(samples)
    for name, picture in drawn.items():
        parent.log_image(f"sweep_{name}", picture, 0)
        (home / f"{name}.png").write_bytes(grids.png(picture))
    states = [result.state for result in outcome.results]
    parent.log({f"trials/{state.replace(' ', '_')}": float(states.count(state)) for state in set(states)}, 0)
    if outcome.best:
        parent.log({f"best/{study.sweep.metric.replace('/', '_')}": best[0].value or 0.0}, 0)
        parent.set_tags({"best_run": outcome.best, "best_point": words(best[0].point)})
