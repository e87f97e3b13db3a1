"""gen-ray prepare SOURCE: convert a data set to Parquet shards."""

from pathlib import Path
from typing import Annotated

import typer

from gen_ray.storage.paths import root as place
from gen_ray.storage.user_paths import local
from pipelines import terminal
from pipelines.instances import Storage

SOURCES = "digits | fashion_mnist | mnist | cifar10 | image_folder:DIR | text:FILE | parquet:GLOB"


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
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE: length, image_size, levels or shape of the source. May be repeated."),
    ] = None,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Convert a data set to checked Parquet shards with fixed train, validation and test splits."""
    from gen_ray.configuration.base import validated
    from gen_ray.configuration.overrides import apply
    from gen_ray.datasets.prepare import BadRows, SourceOptions
    from gen_ray.datasets.prepare import prepare as make

    raw: dict[str, object] = {}
    for item in option or []:
        apply(raw, item)
    options = validated(SourceOptions, raw, path="option")
    done = make(source, root=root, out=out or storage / "data", options=options, on_bad_row=BadRows.parse(on_bad_row))
    counts = ", ".join(f"{split} {rows:,}" for split, rows in done.rows.items())
    spec = done.spec
    typer.echo(f"{done.folder}\n{spec.name}: {counts} rows of {spec.kind} {spec.shape}, {spec.levels} levels")
    if spec.is_image and len(spec.classes) < 2:
        typer.echo("Fréchet distance: will not be measured, because it needs labels of at least two classes")
    typer.echo(
        f"fingerprint {done.fingerprint[:12]}"
        + (f", {done.quarantined} bad rows set aside" if done.quarantined else "")
    )


if __name__ == "__main__":
    terminal.main(prepare)
