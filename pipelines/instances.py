"""Options shared by the verbs about instances: the model, and instances from files or from a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.storage.paths import ENVIRONMENT, root

if TYPE_CHECKING:
    import torch

    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.inference.artifact import Model

ModelName = Annotated[
    str,
    typer.Argument(
        help="A run's id or name, an MLflow run's id or runs:/ID, an artifact folder, or models:/NAME@champion."
    ),
]
Rows = Annotated[
    int,
    typer.Option(
        "-n", min=1, max=10_000_000, help="Number of instances of a source, chosen by a seed over the whole split."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of all random draws.")]
Storage = Annotated[
    Path,
    typer.Option(
        parser=root,
        metavar="FOLDER|URI",
        envvar=ENVIRONMENT,
        help="storage.root of the runs: a folder, or a URI such as s3://bucket/prefix.",
    ),
]


@dataclass(frozen=True)
class InstanceOptions:
    """The instances to read: files, a source, or, with neither, the data that the model was trained on."""

    files: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, .npz of stored values, or .txt for text models.")
    ] = None
    data: Annotated[
        str | None, typer.Option(help="A source as in gen-ray prepare SOURCE. Default: the training data.")
    ] = None
    root: Annotated[Path | None, typer.Option(help="Folder of that source's files.")] = None
    split: Annotated[str, typer.Option(help="Split of the source: train, validation or test.")] = "test"
    resize: Annotated[bool, typer.Option("--resize", help="Scale images to the model's size and levels.")] = False


def load(model: str, storage: Path) -> "Model":
    """Return a trained model on the first GPU, or else on the CPU."""
    folder = find(model, storage)  # before torch, whose import takes longer
    from gen_ray.engine.inference import artifact

    return artifact.load(folder, device=device())


def find(model: str, root: Path, tracking_uri: str | None = None) -> Path:
    """Return the artifact folder of a MODEL; a registered one is downloaded first. Raise UserError, RunError."""
    from gen_ray import run_directory

    if not model.startswith(run_directory.REGISTERED) and not run_directory.MLFLOW_RUN.fullmatch(model):
        return run_directory.find_artifact(model, root)  # without MLflow, which takes over a second to import
    from gen_ray.tracking.sources import source_of

    source = source_of(model, root, tracking_uri)
    return source.fetch(source.newest())


def device() -> "torch.device":
    """Return the first GPU, or else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gather(model: "Model", selection: InstanceOptions, n: int, storage: Path) -> tuple["torch.Tensor", list[str]]:
    """Return instances (N, *shape) converted to the model's data and N names; of a source, n rows chosen by seed.

    Raise UserError.
    """
    import torch

    from gen_ray.engine.inference import instances
    from gen_ray.errors import UserError

    if selection.files and selection.data:
        raise UserError("--data: has no effect where files are given; leave one out")
    if not selection.files:
        return _rows(model, selection, n, storage)
    read = [(file, instances.read(file, model.spec, resize=selection.resize)) for file in selection.files]
    for file in selection.files:
        tell_left_out(file, model.spec)
    names = [f"{file}[{i}]" if len(x) > 1 else str(file) for file, x in read for i in range(len(x))]
    return torch.cat([x for _, x in read]), names


def tell_left_out(file: Path, spec: "DataSpec") -> None:
    """Print a line on stderr if reading drops a part of the file."""
    from gen_ray.engine.inference import instances

    if line := instances.dropped_part(file, spec):
        typer.echo(line, err=True)


def _rows(model: "Model", selection: InstanceOptions, n: int, storage: Path) -> tuple["torch.Tensor", list[str]]:
    import torch

    from gen_ray.datasets.prepare import BadRows, SourceOptions, find, prepare
    from gen_ray.datasets.random_rows import random_row_numbers, read_rows
    from gen_ray.engine.inference import instances, memory

    trained, home = model.experiment.data, storage / "data"
    options = trained.options if selection.data in (None, trained.source) else SourceOptions()
    if not model.spec.is_image and not model.spec.is_table:
        options = options.model_copy(update={"length": model.spec.shape[0]})
    own = None if selection.data or selection.root else find(home, model.meta["data_fingerprint"])
    prepared = own or prepare(
        selection.data or trained.source,
        root=selection.root or (trained.root if selection.data in (None, trained.source) else None),
        out=home,
        options=options,
        on_bad_row=BadRows.parse(trained.on_bad_row),
    )
    prepared.shards(selection.split)  # reports an unknown split before anything is read
    n = min(n, prepared.rows[selection.split])
    memory.require(8 * n * prepared.spec.dims, f"{n:,} rows of {prepared.spec.name}", "choose fewer with -n")
    # not the first ones, because sources are often sorted by class
    rows = random_row_numbers(prepared.rows[selection.split], n)
    x = torch.from_numpy(read_rows(prepared, selection.split, rows)[0])
    names = [f"{prepared.spec.name} {selection.split} {row}" for row in rows]
    fitting = instances.convert(x, prepared.spec, model.spec, resize=selection.resize)
    if not selection.resize and (line := instances.rounded(x, prepared.spec, model.spec)):
        typer.echo(line, err=True)
    return fitting, names
