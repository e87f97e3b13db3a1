"""gen-ray compare [EXPERIMENT]: compare the runs of an experiment in a table."""

from pathlib import Path
from typing import Annotated

import typer

from gen_ray.metrics import BITS_PER_DIM
from pipelines import terminal
from pipelines.instances import Storage


def compare(
    experiment: Annotated[str, typer.Argument(help="The MLflow experiment.")] = "gen_ray",
    sort: Annotated[str, typer.Option(help="The metric to sort by, best first.")] = BITS_PER_DIM.name,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Filter key=value, e.g. family=ddpm, data=fashion_mnist, sweep=ID or any dotted key."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: one line per run, all digits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a list of tables of runs.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page with the tables and the runs' samples.")] = None,
    storage: Storage = Path("gen_ray_runs"),
    uri: Annotated[
        str | None, typer.Option(help="tracking.uri of the runs. Default: the store below --storage.")
    ] = None,
) -> None:
    """Print the finished runs, one table per data set, and the command that opens the MLflow UI."""
    from gen_ray.errors import UserError
    from gen_ray.tracking.store import Store

    if as_csv and as_json:
        raise UserError("--csv and --json: both print to the same output; give one of them")
    store = Store.of(uri, experiment, storage)
    for_programs = as_csv or as_json
    groups = terminal.find_runs(store, sort, where=where or [], err=for_programs)
    if for_programs:
        from gen_ray.tracking.export import to_csv, to_json

        typer.echo(to_csv(groups) if as_csv else to_json(groups), nl=as_json)
    else:
        for group in groups:
            terminal.show_table(group.title, group.header, group.lines, dispensable=group.dispensable)
    if html is not None:
        from gen_ray.tracking.report import write

        write(html, groups, store)
        typer.echo(f"report: {html}", err=for_programs)
    if not for_programs:
        typer.echo(f"MLflow UI: {terminal.ui_command(store)}")


if __name__ == "__main__":
    terminal.main(compare)
