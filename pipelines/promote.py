"""gen-ray promote RUN: measure a model's samplers, and make it the champion that is served."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import terminal
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
    """What of the samplers is measured."""

    sampler: Annotated[list[str] | None, typer.Option(help="Again and again; if left out all but adaptive ones.")] = (
        None
    )
    steps: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10_000_000, help="Again and again; about each sampler's default if left out."),
    ] = None
    n: Annotated[int, typer.Option("-n", min=10, max=1_000_000, help="Samples of each.")] = 1000
    minutes: Annotated[
        float, typer.Option(min=0.01, max=100_000, help="Of measuring; the dearest are left out beyond.")
    ] = 10.0
    seed: Seed = 0
    batch_size: Annotated[
        int, typer.Option(min=1, max=2**20, help="Samples of one batch, for quality and for seconds.")
    ] = 64

    def order(self) -> "MeasurementPlan":
        """Return the measurement that these options ask for."""
        from gen_ray.cluster.evaluation.sampler_benchmark import MeasurementPlan

        return MeasurementPlan(
            samplers=self.sampler or (),
            steps=self.steps or (),
            n=self.n,
            seed=self.seed,
            batch_size=self.batch_size,
            minutes=self.minutes,
        )


@terminal.grouped
def promote(
    asked: PromoteOptions,
    run: Annotated[str | None, typer.Argument(help="A run's id or name; or --best, or --rollback.")] = None,
    best: Annotated[str | None, typer.Option(help="A metric: the best finished run of --experiment by it.")] = None,
    experiment: Annotated[str, typer.Option(help="The MLflow experiment of --best.")] = "gen_ray",
    name: Annotated[str | None, typer.Option(help="The registered model; DATA-FAMILY if left out.")] = None,
    metric: Annotated[
        str, typer.Option(help="By which a run is held against the champion, an eval/… metric.")
    ] = "eval/bits_per_dim",
    margin: Annotated[float, typer.Option(min=0, max=1e9, help="By how much it must be better.")] = 0.01,
    force: Annotated[bool, typer.Option("--force", help="Promote it whatever the champion is.")] = False,
    rollback: Annotated[str | None, typer.Option(help="A registered model: the previous champion again.")] = None,
    storage: Storage = Path("gen_ray_runs"),
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow's URI. Default: the run's tracking.uri.")] = None,
) -> None:
    """Measure sampler × steps of a trained model, pick along the curve, and make the model champion if it is better."""
    from gen_ray import run_directory
    from gen_ray.errors import UserError
    from gen_ray.tracking.store import Store

    if sum(choice is not None for choice in (run, best, rollback)) != 1:
        raise UserError("give one of RUN, --best METRIC and --rollback MODEL")
    if run is None:
        there = Store.of(tracking_uri, experiment, storage)
        there.check()
        if rollback is not None:
            typer.echo(_rollback(there, rollback))
            return
        run = _best(there, str(best))
    chosen = find(run, storage, tracking_uri) if best is None else run_directory.artifact_of(run, storage)
    found = run_directory.settings(chosen, storage)
    _check(found, chosen, asked)
    from gen_ray.tracking import registry
    from gen_ray.tracking.runs import row  # imports MLflow, which takes longer than all the checks

    store = Store.of(tracking_uri or found.tracking.uri, found.tracking.experiment, storage)
    own = row(store, run_directory.run_of(chosen))
    candidate = registry.record(own, metric)
    model = name or _model_name(run_directory.meta(chosen)["data"]["name"], found.family.name)
    terminal.check_name("--name", model)
    reason = "" if force else registry.obstacle(store, model, candidate, margin=margin)
    if reason:  # told before anything is measured for minutes
        typer.echo(f"{model} keeps its champion: {reason} (--force)")
        return
    measured = _measured(found, chosen, store, own, asked.order())
    candidate = replace(candidate, tags=_kept(measured, store, candidate.mlflow_id, chosen).tags())
    verdict = registry.promote(store, model, candidate, margin=margin, force=force)
    typer.echo(verdict.line)
    if verdict.promoted:
        typer.echo(f"models:/{model}@champion")


def _rollback(store: "Store", model: str) -> str:
    from gen_ray.tracking import registry

    return registry.rollback(store, model).line


def _check(experiment: "Experiment", artifact: Path, asked: PromoteOptions) -> None:
    """Raise UserError for samplers and steps that the model does not have, before Ray starts."""
    if not asked.sampler and not asked.steps:
        return
    from gen_ray import run_directory
    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.evaluation.sampler_settings import sampler_settings

    family = experiment.model(DataSpec.model_validate(run_directory.meta(artifact)["data"]))
    sampler_settings(family, asked.sampler or (), asked.steps or ())


def _kept(measured: "Release", store: "Store", mlflow_id: str, artifact: Path) -> "Release":
    """Return a release whose artifact is kept where servers find it."""
    from gen_ray.tracking.releases import keep

    path, digest = keep(store, mlflow_id, artifact)
    return replace(measured, path=path, manifest=digest)


def _model_name(data: str, family: str) -> str:
    """Return the name of a registered model where none is given: each data set has its own, each folder too."""
    return f"{data}-{family}".replace("_", "-").lstrip("-.")


def _best(store: "Store", metric: str) -> str:
    """Return the run that is best by a metric. Raise UserError where none has it, or where figures do not compare."""
    from gen_ray.errors import UserError
    from gen_ray.tracking.comparison import differences, tables
    from gen_ray.tracking.runs import rows

    found = tables(rows(store), metric)
    if len(found) != 1:
        line = f"experiment {store.experiment} has 0 finished runs"
        if found:
            line = f"the runs of experiment {store.experiment} differ in provenance, {len(found)} groups: name a run "
            line += f"instead ({differences(found)})"
        raise UserError(f"--best {metric}: {line}")
    return found[0].runs[0].run_id


def _measured(
    experiment: "Experiment", folder: Path, store: "Store", run: "RunRow", order: "MeasurementPlan"
) -> "Release":
    """Return what is to be known of the version: curve, choices and fingerprint; keep the curve with the run."""
    from gen_ray.cluster.evaluation.sampler_benchmark import Measurement
    from gen_ray.cluster.nodes.connect import connected
    from gen_ray.cluster.training.train import training_data
    from gen_ray.engine.evaluation.pareto import choose
    from gen_ray.tracking.releases import Release
    from gen_ray.tracking.runs import attach

    with connected(experiment.scaling):
        work = Measurement(experiment, training_data(experiment, folder), folder, order)
        measured = work.points(_tell)
        if measured is None:
            typer.echo("no curve: images need labels of two classes or more for an extractor that judges samples")
            return Release(version="")
        choices = choose(measured.points)
        sha, build = work.fingerprint(choices["fast"].choice)
    _show(measured, choices)
    attach(store, run, _files(measured, choices), "sampling")
    return Release(
        version="",
        quality={name: point.choice for name, point in choices.items()},
        metric=measured.metric,
        curve=measured.points,
        fingerprint=sha,
        build=build,
    )


def _tell(done: int, total: int, point: "CostQuality") -> None:
    typer.echo(
        f"{done}/{total}: {point.sampler} {point.steps}, {point.nfe} nfe, {point.seconds_per_sample:.2g} s a sample, "
        f"{point.quality:.4g} ± {point.error:.2g}",
        err=True,
    )


def _show(measured: "Measured", choices: Mapping[str, "CostQuality"]) -> None:
    marks = {id(point): [name for name in choices if choices[name] is point] for point in choices.values()}
    header = ["sampler", "", "steps", "nfe", "s a sample", measured.metric, "error"]
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
        names = ", ".join(f"{dish.choice.sampler} {dish.choice.steps}" for dish in measured.left_out)
        typer.echo(f"left out, as they would take longer than --minutes: {names}")


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
    picture = png(cost_quality(lines, marks, quality=measured.metric.replace("_", " ")))
    return {"curve.json": json.dumps(data, indent=1).encode(), "curve.png": picture}


if __name__ == "__main__":
    terminal.main(promote)
