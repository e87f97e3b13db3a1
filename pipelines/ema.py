"""gen-ray ema RUN: choose the width of the weight average (EMA) after training."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_ray.errors import UserError
from gen_ray.metrics import BITS_PER_DIM, HEADLINE
from pipelines import failures, terminal
from pipelines.instances import ModelName, Storage, find

if TYPE_CHECKING:
    from gen_ray.experiment import Experiment

WIDTHS = (0.05, 0.07, 0.1, 0.15, 0.2)
Widths = Annotated[
    list[float] | None, typer.Argument(help="Relative widths, in addition to those of --sigma-rel.", metavar="WIDTH")
]
METRICS = tuple(metric.key for metric in HEADLINE)


def ema(
    run: ModelName,
    more: Widths = None,
    sigma_rel: Annotated[
        list[float] | None, typer.Option(help="Relative widths of the averages. Default: 0.05 0.07 0.1 0.15 0.2.")
    ] = None,
    by: Annotated[str, typer.Option(help=f"Metric to minimise: {' or '.join(METRICS)}.")] = BITS_PER_DIM.key,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Evaluate weight averages of other widths than that of the training, and store the best as the run's model.

    A relative width of 0.1 averages over about the last fifth of the training (Karras et al. 2024). Each average is a
    least-squares fit to the stored snapshots. The table shows its residual; a width with a poor fit is refused.
    """
    terminal.one_of("--by", by, METRICS)
    from gen_ray import run_directory

    folder = find(run, storage)
    if folder.name != run_directory.ARTIFACT:
        raise UserError(f"{run}: only runs keep the snapshots for averages, and {folder} is not in a run")
    from gen_ray.engine.inference import artifact
    from gen_ray.engine.training import post_hoc_ema
    from gen_ray.storage.paths import remove
    from gen_ray.storage.replacement import PARTIAL, hidden_path

    home, trained = folder.parent, artifact.load(folder)
    experiment = run_directory.settings(folder, storage)
    candidates = hidden_path(home / "candidates", PARTIAL)
    residuals = _residuals(partial(post_hoc_ema.residual, home), [*(sigma_rel or []), *(more or [])])
    metrics_of = {_name(trained.meta.get("ema")): dict(trained.meta["metrics"])}
    try:
        metrics_of |= _measured(experiment, folder, residuals, candidates)
        _show(metrics_of, by, {_name({"sigma_rel": width}): residual for width, residual in residuals.items()})
        best = min(metrics_of, key=lambda name: metrics_of[name][f"eval/{by}"])
        _replace(folder, candidates / best)
    finally:
        remove(candidates)
    typer.echo(f"{folder}: {best}")


def _measured(
    experiment: "Experiment", artifact: Path, widths: Iterable[float], candidates: Path
) -> dict[str, dict[str, Any]]:
    """Write the model of each average below candidates; return the metrics by the name of the average."""
    from gen_ray.cluster.data.preparation import training_data
    from gen_ray.cluster.evaluation.evaluate import evaluate_average
    from gen_ray.cluster.nodes.connect import connected

    metrics: dict[str, dict[str, Any]] = {}
    with connected(experiment.scaling):
        prepared = training_data(experiment, artifact)
        for width in widths:
            name = _name({"sigma_rel": width})
            report = evaluate_average(experiment, prepared, artifact.parent, width, out=candidates / name)
            metrics[name] = report["metrics"]
    return metrics


def _replace(artifact: Path, candidate: Path) -> None:
    """Replace the model by a candidate, if there is one: the model as trained has none."""
    from gen_ray.engine.inference import model_files
    from gen_ray.storage.paths import copy, exists

    if exists(candidate):
        model_files.commit(artifact, partial(copy, candidate))


def _residuals(residual: Callable[[float], float], widths: list[float]) -> dict[float, float]:
    """Return the residual of each width. Raise UserError for a given width without a fit; skip a default one."""
    if widths:
        return {width: residual(width) for width in widths}
    fitted: dict[float, float] = {}
    for width in WIDTHS:
        try:
            fitted[width] = residual(width)
        except UserError as error:
            typer.echo(f"left out: {failures.with_flags(str(error))}")
    return fitted


def _name(average: dict[str, Any] | None) -> str:
    return f"sigma_rel={average['sigma_rel']:g}" if average else "as trained"


def _show(metrics_of: dict[str, dict[str, Any]], by: str, residuals: dict[str, float]) -> None:
    metrics = [name for name in METRICS if all(f"eval/{name}" in row for row in metrics_of.values())]
    terminal.one_of("--by", by, tuple(metrics))
    lines = [
        [name, f"{residuals[name]:.3f}" if name in residuals else "-", *(f"{row[f'eval/{m}']:.4f}" for m in metrics)]
        for name, row in metrics_of.items()
    ]
    terminal.show_table("averages of the weights", ["average", "residual", *metrics], lines)


if __name__ == "__main__":
    terminal.main(ema)
