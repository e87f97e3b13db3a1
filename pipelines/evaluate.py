"""gen-ray evaluate RUN|ARTIFACT: evaluate a trained model again."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import terminal
from pipelines.instances import Storage, find

EFFECTIVE = ("evaluation.", "scaling.", "data.root=")


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run's id or name, an MLflow run's id or runs:/ID, or an artifact folder.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, e.g. evaluation.effort=500 evaluation.sampler=ancestral.")
    ] = None,
    reference: Annotated[str, typer.Option(help="The split that samples are compared with: train or test.")] = "train",
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Measure bits per dimension of a trained model, and the quality of its samples."""
    from gen_ray import run_directory
    from gen_ray.errors import UserError

    terminal.one_of("--reference", reference, ("train", "test"))
    for override in overrides or []:
        if not override.startswith(EFFECTIVE):
            raise UserError(f"{override}: has no effect on a trained model; these have: {', '.join(EFFECTIVE)}")
    folder = find(model, storage)
    experiment = run_directory.settings(folder, storage, overrides or [])
    from gen_ray.cluster.data.preparation import training_data
    from gen_ray.cluster.evaluation.evaluate import evaluate_artifact
    from gen_ray.cluster.nodes.connect import connected  # imports Ray, which takes longer than all the checks

    prepared = training_data(experiment, folder)
    experiment.model(prepared.spec)
    with connected(experiment.scaling):
        report = evaluate_artifact(experiment, prepared, folder, against=reference)
    terminal.show_metrics(report["metrics"], report["provenance"])
    for line in report["unmeasured"]:
        typer.echo(line)


if __name__ == "__main__":
    terminal.main(evaluate)
