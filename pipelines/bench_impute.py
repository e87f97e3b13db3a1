"""gen-ray bench impute MODEL|CONFIG: imputation of hidden cells by a model of a table and by other methods."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import instances, terminal
from pipelines.terminal import AsJson

if TYPE_CHECKING:
    from gen_ray.datasets.prepared import Prepared
    from gen_ray.engine.inference.artifact import Model

KINDS = ("completely_at_random", "at_random", "not_at_random")


def impute(
    model: Annotated[str, typer.Argument(help="A MODEL as in gen-ray impute, or the YAML file of a model to train.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings of the YAML file as key=value.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"Which cells are hidden: {', '.join(KINDS)}. Default: each in turn.")
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of hidden cells.")] = 0.3,
    rows: Annotated[int, typer.Option("-n", min=10, max=1_000_000, help="Number of test rows.")] = 1000,
    k: Annotated[
        int,
        typer.Option(
            "-k", min=1, max=1000, help="Completions per row of a family without exact marginals; intervals need 19."
        ),
    ] = 20,
    seed: instances.Seed = 0,
    storage: instances.Storage = Path("gen_ray_runs"),
    as_json: AsJson = False,
) -> None:
    """Compare a model's imputation of hidden cells with mean or mode, MICE and a chain of boosted trees.

    All of them learn from the training rows, which lack the values that data.options.hide_share leaves out.
    """
    from gen_ray.errors import UserError

    for one in kind or []:
        terminal.one_of("--kind", one, KINDS)
    if overrides and not model.endswith((".yaml", ".yml")):
        raise UserError(f"{overrides[0]}: settings have an effect only where a YAML file is given")
    loaded, prepared = _model(model, overrides or [], storage)
    from gen_ray.bench.imputing import ImputationPlan, compare, provenance
    from gen_ray.datasets.random_rows import read_random_rows
    from gen_ray.engine.evaluation.imputation_baselines import MAX_ROWS

    plan = ImputationPlan(kinds=kind or KINDS, share=share, k=k, seed=seed)
    train, _ = read_random_rows(prepared, "train", MAX_ROWS)
    test, _ = read_random_rows(prepared, "test", rows)
    about = provenance(loaded.spec, plan, {"train": len(train), "test": len(test)})
    found = []
    for result in compare(loaded, train, test, plan, device=instances.device()):
        found.append(result.figures())
        typer.echo(f"{result.kind}: {result.method}, {result.minutes:.2f} min", err=True)
    if as_json:
        typer.echo(json.dumps({"model": model, **about, "results": _without_nan(found)}, indent=1))
        return
    header = ["hidden", "method", "RMSE", "MAE", "accuracy", "coverage", "minutes"]
    lines = [
        [row["kind"], row["method"], *(_cell(row[name]) for name in ("rmse", "mae", "accuracy", "coverage", "minutes"))]
        for row in found
    ]
    terminal.show_table(f"{model}: {', '.join(f'{key} {word}' for key, word in about.items())}", header, lines)


def _model(name: str, overrides: list[str], storage: Path) -> "tuple[Model, Prepared]":
    """Return a trained model of a table, or train one; and its data. Raise UserError for other data."""
    from gen_ray import run_directory
    from gen_ray.cluster.data.preparation import training_data
    from gen_ray.engine.inference import artifact
    from gen_ray.errors import UserError

    if name.endswith((".yaml", ".yml")):
        from gen_ray.cluster.training.train import train
        from gen_ray.experiment import load
        from gen_ray.storage.user_paths import local

        folder = train(load(local(name), [*overrides, f"storage.root={storage}"])).artifact
    else:
        folder = instances.find(name, storage)
    loaded = artifact.load(folder, device=instances.device())
    if not loaded.spec.is_table:
        raise UserError(f"{name}: holds {loaded.spec.kind}; this benchmark needs a model of a table")
    return loaded, training_data(run_directory.settings(folder, storage), folder)


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _without_nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the figures that are undefined, because JSON has none."""
    return [{k: v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))} for row in rows]
