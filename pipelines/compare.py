"""gen-ray compare [EXPERIMENT]: the runs of an experiment side by side."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import terminal


def compare(
    experiment: Annotated[str, typer.Argument(help="The MLflow experiment.")] = "gen_ray",
    sort: Annotated[str, typer.Option(help="The metric to sort by, best first.")] = "eval/bits_per_dim",
    storage: Annotated[Path, typer.Option(help="storage.root of the runs.")] = Path("gen_ray_runs"),
    uri: Annotated[str | None, typer.Option(help="tracking.uri, where it is not the default store.")] = None,
) -> None:
    """Print the finished runs as a table for each data set, and how to open the MLflow UI on the same store."""
    from gen_ray.store import Store

    store = Store.of(uri, experiment, storage.absolute())
    terminal.show_runs(store, sort)
    typer.echo(f"MLflow UI: {terminal.ui_command(store)}")


if __name__ == "__main__":
    terminal.main(compare)
