"""gen-ray prepare SOURCE: convert a data set to Parquet shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.storage.paths import root as place
from gen_ray.storage.user_paths import local
from pipelines import terminal
from pipelines.instances import Storage

if TYPE_CHECKING:
    from gen_ray.datasets.prepared import Prepared
    from gen_ray.datasets.source import DataSource

SOURCES = (
    "digits | fashion_mnist | mnist | cifar10 | image_folder:DIR | text:FILE | parquet:GLOB | csv:GLOB | "
    "wine | breast_cancer | iris | diabetes"
)
OPTIONS = (
    "KEY=VALUE of data.options: length, image_size, levels, shape, or for tables delimiter, missing, bins, target, "
    "columns.NAME.type=category, …. May be repeated."
)


def prepare(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=place, metavar="FOLDER|URI", help="Parent of the prepared folder. Default: data below --storage."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(parser=local, metavar="FOLDER", help="Folder of files already on disk (torchvision's layout)."),
    ] = None,
    on_bad_row: Annotated[str, typer.Option(help="stop, or skip:K to set aside at most K bad rows.")] = "stop",
    option: Annotated[list[str] | None, typer.Option(help=OPTIONS)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the type, codes and missing values of each column, and exit.")
    ] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Convert a data set to checked Parquet shards with fixed train, validation and test splits."""
    from gen_ray.configuration.base import validated
    from gen_ray.configuration.overrides import apply
    from gen_ray.datasets.prepare import BadRows, SourceOptions, opened
    from gen_ray.datasets.prepare import prepare as make

    raw: dict[str, object] = {}
    for item in option or []:
        apply(raw, item)
    options = validated(SourceOptions, raw, path="option")
    if dry_run:
        _show_source(opened(source, root, options))
        return
    done = make(source, root=root, out=out or storage / "data", options=options, on_bad_row=BadRows.parse(on_bad_row))
    typer.echo(done.folder)
    _show_prepared(done)


def _show_source(source: "DataSource") -> None:
    """Print the properties of a source: a line for each column of a table."""
    from pipelines.tables import show_table

    spec = source.spec()
    if not spec.is_table:
        typer.echo(f"{spec.name}: {spec.kind} {spec.shape}, {spec.levels} levels")
        return
    lines = [
        [
            finding.name,
            finding.column.type if finding.column else "",
            str(finding.column.cardinality) if finding.column else "",
            f"{100 * finding.missing_share:.1f}",
            ", ".join(finding.examples),
            "left out: " + finding.left_out if finding.left_out else finding.note,
        ]
        for finding in source.findings
    ]
    title = f"{spec.name}: {len(spec.columns)} of {len(lines)} columns (from the training rows; nothing was written)"
    show_table(
        title, ["column", "type", "codes", "missing %", "examples", "remark"], lines, prose=("examples", "remark")
    )


def _show_prepared(done: "Prepared") -> None:
    """Print the size of a prepared data set, and the columns of a table by type."""
    counts = ", ".join(f"{split} {rows:,}" for split, rows in done.rows.items())
    spec = done.spec
    typer.echo(f"{spec.name}: {counts} rows of {spec.kind} {spec.shape}, {spec.levels} levels")
    if spec.is_table:
        types = [column.type for column in spec.columns]
        found = ", ".join(f"{types.count(kind)} {kind}" for kind in dict.fromkeys(types))
        missing = 1 - sum(sum(column.counts) for column in spec.columns) / (done.rows["train"] * len(types))
        target = f", target {spec.target}" if spec.target else ""
        typer.echo(f"columns: {found}{target}; {missing:.1%} of the values are missing (--dry-run lists the columns)")
    for line in done.notes:
        typer.echo(line)
    if spec.is_image and len(spec.classes) < 2:
        typer.echo("Fréchet distance: will not be measured, because it needs labels of at least two classes")
    bad = f", {done.quarantined} bad rows set aside" if done.quarantined else ""
    typer.echo(f"fingerprint {done.fingerprint[:12]}{bad}")


if __name__ == "__main__":
    terminal.main(prepare)
