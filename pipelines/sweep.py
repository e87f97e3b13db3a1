"""gen-ray sweep CONFIG [key=value …]: search the settings of an experiment for the best run."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import terminal
from pipelines.progress import VerbProgress
from pipelines.resuming import AcceptData, TakeOver, check_resume

if TYPE_CHECKING:
    from gen_ray.sweeps.config import SweepPlan

PlanFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The sweep's YAML file, e.g. one of configs/sweeps.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value of the sweep (trials=8) or of all trials (training.epochs=3)")
]
Promote = Annotated[
    str | None,
    typer.Option(help="Registered model in MLflow; the best trial becomes its champion if it is better."),
]
Margin = Annotated[
    float | None,
    typer.Option(min=0, max=1e9, help="Minimum improvement for --promote, in the metric's unit. Default: 0.01."),
]


def sweep(
    plan: PlanFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved sweep and exit.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the newest unfinished sweep.")] = False,
    take_over: TakeOver = False,
    accept_data: AcceptData = False,
    tag: Annotated[
        list[str] | None, typer.Option(help="Tag key=value of the sweep's run in MLflow. May be repeated.")
    ] = None,
    promote: Promote = None,
    margin: Margin = None,
) -> None:
    """Run the trials of a search space on Ray Tune; MLflow shows one run for the sweep and, below it, one per trial."""
    from gen_ray.errors import RunError
    from gen_ray.sweeps import config

    tags = _tags(tag or [])
    check_promotion(promote, margin)
    check_resume(resume=resume, take_over=take_over, accept_data=accept_data)
    loaded = config.load(plan, overrides or [])
    if dry_run:
        typer.echo(config.dump(loaded), nl=False)
        return
    from gen_ray.cluster.sweeps.sweep import sweep as run

    with VerbProgress(loaded.sweep.name) as watch:
        done = run(loaded, resume=resume, take_over=take_over, accept_data=accept_data, watch=watch, tags=tags)
    terminal.show_table(done.sweep_id, done.header, done.lines, prose=("state",))
    if done.best:
        typer.echo(f"best: {done.best}")
        if promote is not None:
            typer.echo(_promoted(loaded, done.sweep_id, done.best, promote, margin))
    failed = [result for result in done.results if result.state == "failed"]
    if failed:
        raise RunError(f"{done.sweep_id}: {len(failed)} of {len(done.results)} trials failed")


def check_promotion(promote: str | None, margin: float | None) -> None:
    """Raise UserError for a name that MLflow would refuse, or for --margin without --promote."""
    from gen_ray.configuration.field_types import NAME_PATTERN
    from gen_ray.errors import UserError

    if promote is None and margin is not None:
        raise UserError("--margin: has no effect without --promote MODEL")
    if promote is not None and not re.fullmatch(NAME_PATTERN, promote):
        raise UserError(f"--promote {promote!r}: a model's name consists of letters, digits, '.', '_' and '-'")


def _tags(words: list[str]) -> dict[str, str]:
    from gen_ray.errors import UserError

    for word in words:
        if not re.match(r"[\w./ -]{1,250}=.", word):  # the keys that MLflow accepts
            raise UserError(f"--tag {word!r}: write key=value; the key consists of letters, digits, '.', '_', '/', '-'")
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _promoted(plan: "SweepPlan", sweep_id: str, best: str, model: str, margin: float | None) -> str:
    """Compare the best trial with the champion; tag the sweep's run with the outcome and return it."""
    from gen_ray import run_directory
    from gen_ray.tracking import registry
    from gen_ray.tracking.releases import Release, store_artifact
    from gen_ray.tracking.runs import row, set_tags
    from gen_ray.tracking.store import Store

    store, metric = Store.of_experiment(plan.first), registry.promotion_metric(plan.sweep.metric)
    margin = registry.MARGIN if margin is None else margin
    path, digest = store_artifact(
        store, row(store, best).mlflow_id, run_directory.artifact_of(best, plan.first.storage.root)
    )
    tags = Release(version="", path=path, manifest=digest).tags()
    verdict = registry.promote_run(store, model, best, metric, margin=margin, tags=tags)
    set_tags(store, sweep_id, {"promotion": verdict.line})
    return verdict.line


if __name__ == "__main__":
    terminal.main(sweep)
