"""gen-ray prepare SOURCE: convert a data set to Parquet shards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.storage.paths import root as place
from gen_ray.storage.user_paths import local
from pipelines import terminal
from pipelines.instances import Storage

if TYPE_CHECKING:
    from gen_ray.datasets.prepare import BadRows, SourceOptions
    from gen_ray.datasets.prepared import Prepared
    from gen_ray.datasets.source import DataSource
    from gen_ray.dataspec import DataSpec


SOURCES = (
    "digits | fashion_mnist | mnist | cifar10 | image_folder:DIR | text:FILE | parquet:GLOB | csv:GLOB | "
    "wine | breast_cancer | iris | diabetes, or the YAML file of an experiment: its section data"
)
OPTIONS = (
    "KEY=VALUE of data.options: length, image_size, levels, shape, or for tables delimiter, encoding, missing, bins, "
    "target, columns.NAME.type=category, …. May be repeated."
)


def prepare(
    context: typer.Context,
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
        bool,
        typer.Option(
            "--dry-run",
            help="Write nothing: print the shape, or of a table the type, codes and missing values of each column, and "
            "bad rows.",
        ),
    ] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Convert a data set to checked Parquet shards with fixed train, validation and test splits."""
    from gen_ray.configuration.files import is_overlay
    from gen_ray.datasets.catalogue import SOURCES as KNOWN
    from gen_ray.datasets.prepare import BadRows, opened
    from gen_ray.datasets.prepare import prepare as make

    if is_overlay(source) and source.partition(":")[0] not in KNOWN:
        data, kept = _of_experiment(Path(source), root, on_bad_row, option or [])
        source_of_storage = context.get_parameter_source("storage")  # the environment is the default of both
        storage = storage if source_of_storage and source_of_storage.name == "COMMANDLINE" else kept
    else:
        data = _of_options(source, root, on_bad_row, option or [])
    if dry_run:
        _show_source(opened(data.source, data.root, data.options), BadRows.parse(data.on_bad_row))
        return
    done = make(
        data.source,
        root=data.root,
        out=out or storage / "data",
        options=data.options,
        on_bad_row=BadRows.parse(data.on_bad_row),
    )
    typer.echo(done.folder)
    _show_prepared(done)


@dataclass(frozen=True)
class _Request:
    """The data to prepare; the fields are those of the section data of an experiment."""

    source: str
    root: Path | None
    options: "SourceOptions"
    on_bad_row: str


def _of_options(source: str, root: Path | None, on_bad_row: str, items: list[str]) -> _Request:
    """Return the data that the options of the command name."""
    from gen_ray.configuration.base import validated
    from gen_ray.configuration.overrides import apply
    from gen_ray.datasets.prepare import SourceOptions

    raw: dict[str, object] = {}
    for item in items:
        apply(raw, item)
    return _Request(source, root, validated(SourceOptions, raw, path="option"), on_bad_row)


def _of_experiment(file: Path, root: Path | None, on_bad_row: str, items: list[str]) -> tuple[_Request, Path]:
    """Return the data of an experiment's YAML, changed by the options of the command, and its storage.root."""
    from gen_ray.experiment import load

    overrides = [f"data.options.{item}" for item in items]
    overrides += [] if root is None else [f"data.root={json.dumps(str(root))}"]
    overrides += [] if on_bad_row == "stop" else [f"data.on_bad_row={on_bad_row}"]
    experiment = load(file, overrides)
    data = experiment.data
    return _Request(data.source, data.root, data.options, data.on_bad_row), experiment.storage.root


def _show_source(source: "DataSource", policy: "BadRows") -> None:
    """Print the properties of a source: of a table a line for each column, and its first bad row."""
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
            ". ".join(filter(None, (finding.left_out and f"left out: {finding.left_out}", finding.note))),
        ]
        for finding in source.findings
    ]
    title = f"{spec.name}: {len(spec.columns)} of {len(lines)} columns (from the training rows; nothing was written)"
    show_table(
        title, ["column", "type", "codes", "missing %", "examples", "remark"], lines, prose=("examples", "remark")
    )
    _show_bad_rows(source, spec, policy)


def _show_bad_rows(source: "DataSource", spec: "DataSpec", policy: "BadRows") -> None:
    """Print the number of bad rows, the first one, and whether preparing would stop at them."""
    from gen_ray.datasets.rows import BadRow

    n, first = 0, None
    for row in source.rows(spec):
        if isinstance(row, BadRow):
            n, first = n + row.rows, first or row
    if first is None:
        return
    outcome = "they will be left out" if n <= policy.limit else f"--on-bad-row skip:{n} leaves them out"
    typer.echo(f"{n:,} bad row{'s' if n > 1 else ''}, the first: {first}; {outcome}")


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
