"""gen-ray train CONFIG [key=value …]: train one experiment and save its artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import terminal
from pipelines.progress import VerbProgress
from pipelines.resuming import AcceptData, TakeOver, check_resume

if TYPE_CHECKING:
    from gen_ray.experiment import Data


def train(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, e.g. training.epochs=10, or further YAML files.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and exit.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the newest run of this name; a finished one needs more training.epochs."
        ),
    ] = False,
    take_over: TakeOver = False,
    accept_data: AcceptData = False,
) -> None:
    """Train one model on Ray Train, evaluate it and record it in MLflow."""
    from gen_ray.configuration import yaml12
    from gen_ray.experiment import load

    check_resume(resume=resume, take_over=take_over, accept_data=accept_data)
    experiment = load(config, overrides or [])
    if dry_run:
        typer.echo(yaml12.dump(experiment.resolved()), nl=False)
        _note_unreadable_source(experiment.data)
        return
    from gen_ray.cluster.training.train import train as run

    with VerbProgress(experiment.name) as watch:
        done = run(experiment, resume=resume, take_over=take_over, accept_data=accept_data, watch=watch)
    typer.echo(f"run {done.run_id}")
    terminal.show_metrics(done.metrics, done.provenance)
    typer.echo(f"artifact {done.artifact}")


def _note_unreadable_source(data: "Data") -> None:
    """Print a note on stderr if the user's files cannot be read here. It is not an error: the cluster may have them."""
    from gen_ray.datasets.catalogue import open_source
    from gen_ray.errors import UserError

    try:
        source = open_source(data.source, data.root, data.options)
        if source.argument:
            source.signature()
    except UserError as error:
        typer.echo(f"note: data.source={data.source} cannot be read on this machine: {error}", err=True)


if __name__ == "__main__":
    terminal.main(train)
