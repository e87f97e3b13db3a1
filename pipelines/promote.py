"""gen-ray promote RUN: measure a model's samplers and make it the champion of a registered model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.metrics import BITS_PER_DIM, label_of
from pipelines import copying, terminal
from pipelines.instances import Seed, Storage, find

if TYPE_CHECKING:
    from gen_ray.cluster.evaluation.sampler_benchmark import Measured, MeasurementPlan
    from gen_ray.engine.evaluation.pareto import CostQuality
    from gen_ray.experiment import Experiment
    from gen_ray.tracking.releases import Release
    from gen_ray.tracking.runs import RunRow
    from gen_ray.tracking.store import Store


@dataclass(frozen=True)
class PromoteOptions:
    """The settings of the sampler benchmark."""

    sampler: Annotated[
        list[str] | None, typer.Option(help="Sampler to measure. May be repeated. Default: all but adaptive ones.")
    ] = None
    steps: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=10_000_000, help="Steps to measure. May be repeated. Default: around each sampler's default."
        ),
    ] = None
    n: Annotated[int, typer.Option("-n", min=10, max=1_000_000, help="Number of samples per setting.")] = 1000
    minutes: Annotated[
        float,
        typer.Option(
            min=0.01, max=100_000, help="Time limit of the measurement, in minutes; the slowest settings are left out."
        ),
    ] = 10.0
    seed: Seed = 0
    batch_size: Annotated[
        int, typer.Option(min=1, max=2**20, help="Samples per batch, for quality and for timing.")
    ] = 64

    def order(self) -> "MeasurementPlan":
        """Return the plan of the measurement."""
        from gen_ray.cluster.evaluation.sampler_benchmark import MeasurementPlan

        return MeasurementPlan(
            samplers=self.sampler or (),
            steps=self.steps or (),
            n=self.n,
            seed=self.seed,
            batch_size=self.batch_size,
            minutes=self.minutes,
        )


@dataclass(frozen=True)
class ComparisonOptions:
    """The registered model, and how the run is compared with its champion."""

    name: Annotated[str | None, typer.Option(help="The registered model. Default: DATA-FAMILY.")] = None
    metric: Annotated[str, typer.Option(help="Metric by which the run is compared with the champion, eval/….")] = (
        BITS_PER_DIM.name
    )
    margin: Annotated[
        float, typer.Option(min=0, max=1e9, help="Minimum improvement on the champion, in the metric's unit.")
    ] = 0.01
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Promote without comparing with the champion, even a model that copies its training data."
        ),
    ] = False


@terminal.option_groups
def promote(
    options: PromoteOptions,
    *,
    run: Annotated[str | None, typer.Argument(help="A run's id or name. Alternatives: --best, --rollback.")] = None,
    best: Annotated[
        str | None, typer.Option(help="Promote the finished run of --experiment that is best by this metric.")
    ] = None,
    experiment: Annotated[str, typer.Option(help="The MLflow experiment of --best.")] = "gen_ray",
    comparison: ComparisonOptions,
    rollback: Annotated[
        str | None, typer.Option(help="Restore the previous champion of this registered model.")
    ] = None,
    storage: Storage = Path("gen_ray_runs"),
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow's URI. Default: the run's tracking.uri.")] = None,
) -> None:
    """Measure samplers × steps of a trained model, choose qualities, and make it the champion if it is better."""
    from gen_ray import run_directory
    from gen_ray.errors import UserError
    from gen_ray.tracking.store import Store

    if sum(choice is not None for choice in (run, best, rollback)) != 1:
        raise UserError("give one of RUN, --best METRIC and --rollback MODEL")
    if run is None:
        target = Store.of(tracking_uri, experiment, storage)
        target.check()
        if rollback is not None:
            typer.echo(_rollback(target, rollback))
            return
        run = _best(target, str(best))
    artifact = find(run, storage, tracking_uri) if best is None else run_directory.artifact_of(run, storage)
    _promote(artifact, storage, tracking_uri, options, comparison)


def _promote(
    artifact: Path, storage: Path, tracking_uri: str | None, options: PromoteOptions, comparison: ComparisonOptions
) -> None:
    """Compare the run of an artifact with the champion; measure its samplers and promote it if it is better."""
    from gen_ray import run_directory
    from gen_ray.tracking.store import Store

    settings = run_directory.settings(artifact, storage)
    _check(settings, artifact, options)
    from gen_ray.tracking import registry
    from gen_ray.tracking.runs import row  # imports MLflow, which takes longer than all the checks

    store = Store.of(tracking_uri or settings.tracking.uri, settings.tracking.experiment, storage)
    run = row(store, run_directory.run_of(artifact))
    candidate = registry.record(run, comparison.metric)
    model = comparison.name or _model_name(run_directory.meta(artifact)["data"]["name"], settings.family.name)
    terminal.check_name("--name", model)
    margin, force = comparison.margin, comparison.force
    reason = "" if force else registry.rejection_reason(store, model, candidate, margin=margin)
    if reason:  # before minutes of measuring
        typer.echo(f"{model} keeps its champion: {reason} (--force)")
        return
    copies = copying.reason(settings, artifact, store, run)
    if copies and not force:
        typer.echo(f"{model}: {run.run_id} is not promoted: {copies}. {copying.REMEDY}")
        return
    if copies:
        typer.echo(f"{model}: {copies}; --force promotes it nevertheless", err=True)
    measured = replace(_measured(settings, artifact, store, run, options.order()), copies=copies or None)
    candidate = replace(candidate, tags=_stored(measured, store, candidate.mlflow_id, artifact).tags())
    verdict = registry.promote(store, model, candidate, margin=margin, force=force)
    typer.echo(verdict.line)
    if verdict.promoted:
        typer.echo(f"models:/{model}@champion")


def _rollback(store: "Store", model: str) -> str:
    from gen_ray.tracking import registry

    return registry.rollback(store, model).line


def _check(experiment: "Experiment", artifact: Path, options: PromoteOptions) -> None:
    """Raise UserError for unknown samplers or invalid steps, before Ray starts."""
    if not options.sampler and not options.steps:
        return
    from gen_ray import run_directory
    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.evaluation.sampler_settings import sampler_settings

    family = experiment.model(DataSpec.model_validate(run_directory.meta(artifact)["data"]))
    sampler_settings(family, options.sampler or (), options.steps or ())


def _stored(measured: "Release", store: "Store", mlflow_id: str, artifact: Path) -> "Release":
    """Return the release with its artifact stored where servers find it."""
    from gen_ray.tracking.releases import store_artifact

    path, digest = store_artifact(store, mlflow_id, artifact)
    return replace(measured, path=path, manifest=digest)


def _model_name(data: str, family: str) -> str:
    """Return the default name of a registered model, made of data set (or folder) and family."""
    return f"{data}-{family}".replace("_", "-").lstrip("-.")


def _best(store: "Store", metric: str) -> str:
    """Return the best run by a metric. Raise UserError if no run has it or if the values are not comparable."""
    from gen_ray.errors import UserError
    from gen_ray.tracking.comparison import differences, tables
    from gen_ray.tracking.runs import rows

    groups = tables(rows(store), metric)
    if len(groups) != 1:
        line = f"experiment {store.experiment} has 0 finished runs"
        if groups:
            line = f"the runs of experiment {store.experiment} differ in provenance, {len(groups)} groups: name a run "
            line += f"instead ({differences(groups)})"
        raise UserError(f"--best {metric}: {line}")
    return groups[0].runs[0].run_id


def _measured(
    experiment: "Experiment", folder: Path, store: "Store", run: "RunRow", order: "MeasurementPlan"
) -> "Release":
    """Measure the samplers and attach the curve to the run; return curve, choices and fingerprint as a release."""
    from gen_ray.cluster.data.preparation import training_data
    from gen_ray.cluster.evaluation.sampler_benchmark import Measurement
    from gen_ray.cluster.nodes.connect import connected
    from gen_ray.engine.evaluation.pareto import choose
    from gen_ray.tracking.releases import Release
    from gen_ray.tracking.runs import log_artifacts

    with connected(experiment.scaling):
        work = Measurement(experiment, training_data(experiment, folder), folder, order)
        measured = work.points(_show_point)
        if measured is None:
            typer.echo("no curve: the Fréchet distance needs images with labels of two classes or more")
            return Release(version="")
        choices = choose(measured.points)
        sha, build = work.fingerprint(choices["fast"].choice)
    _show(measured, choices)
    log_artifacts(store, run, _files(measured, choices), "sampling")
    return Release(
        version="",
        quality={name: point.choice for name, point in choices.items()},
        metric=measured.metric,
        curve=measured.points,
        fingerprint=sha,
        build=build,
    )


def _show_point(done: int, total: int, point: "CostQuality") -> None:
    typer.echo(
        f"{done}/{total}: {point.sampler} {point.steps}, {point.nfe} nfe, {point.seconds_per_sample:.2g} s a sample, "
        f"{point.quality:.4g} ± {point.error:.2g}",
        err=True,
    )


def _show(measured: "Measured", choices: Mapping[str, "CostQuality"]) -> None:
    marks = {id(point): [name for name in choices if choices[name] is point] for point in choices.values()}
    header = ["sampler", "quality", "steps", "nfe", "s a sample", label_of(measured.metric), "error"]
    lines = [
        [
            point.sampler,
            ", ".join(marks.get(id(point), [])),
            str(point.steps),
            str(point.nfe),
            f"{point.seconds_per_sample:.2g}",
            f"{point.quality:.4g}",
            f"{point.error:.2g}",
        ]
        for point in sorted(measured.points, key=lambda point: point.seconds_per_sample)
    ]
    how = ", ".join(f"{key} {value}" for key, value in measured.provenance.items())
    terminal.show_table(f"{measured.metric} ({how})", header, lines)
    if measured.left_out:
        names = ", ".join(f"{setting.choice.sampler} {setting.choice.steps}" for setting in measured.left_out)
        typer.echo(f"left out because of --minutes: {names}")


def _files(measured: "Measured", choices: Mapping[str, "CostQuality"]) -> dict[str, bytes]:
    from gen_ray.engine.plots.grids import png
    from gen_ray.engine.plots.lines import cost_quality

    data = {
        "metric": measured.metric,
        "provenance": measured.provenance,
        "points": [asdict(point) for point in measured.points],
        "choices": {name: asdict(point.choice) for name, point in choices.items()},
    }
    lines: dict[str, Sequence[tuple[float, float]]] = {}
    for point in sorted(measured.points, key=lambda point: point.seconds_per_sample):
        lines[point.sampler] = [*lines.get(point.sampler, ()), (point.seconds_per_sample, point.quality)]
    marks = {name: (point.seconds_per_sample, point.quality) for name, point in choices.items()}
    picture = png(cost_quality(lines, marks, quality=label_of(measured.metric)))
    return {"curve.json": json.dumps(data, indent=1).encode(), "curve.png": picture}


if __name__ == "__main__":
    terminal.main(promote)
