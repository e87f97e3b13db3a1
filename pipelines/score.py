"""gen-ray score MODEL FILE…: the likelihood of instances under a model, in bits per dimension."""

from pathlib import Path
from typing import Annotated

import typer

from gen_ray.storage.user_paths import local
from pipelines import instances, terminal
from pipelines.example_files import is_examples, score_examples
from pipelines.instances import InstanceOptions, ModelName, Rows, Seed, Storage
from pipelines.row_files import ScoredFile, Workers, score_file
from pipelines.row_jobs import is_folder

SOURCES = ("csv:", "parquet:")
"""Prefixes of sources; other --data of a table are files."""

REPEATS = 5
"""Default number of estimates."""


@terminal.option_groups
def score(
    model: ModelName,
    options: InstanceOptions,
    n: Rows = 200,
    effort: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Draws per estimate. Default: that of the evaluation.")
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=10_000,
            help="Number of independent estimates, for the standard error. Default: 5. Not of files of rows.",
        ),
    ] = None,
    seed: Seed = 0,
    rows: Annotated[int, typer.Option(min=0, max=10_000_000, help="Maximum number of instances to show.")] = 20,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR/|URI",
            help="Write all scores to this .npz; those of a file of rows, images or texts to a .csv or .parquet, or to "
            "a folder of Parquet files: DIR/ or s3://bucket/prefix. An existing file is replaced.",
        ),
    ] = None,
    workers: Workers = None,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Print bits per dimension of instances with kind and standard error, and their mean; for tables bits of each cell.

    With --data FILE or DIR/: write the bits of each row and cell of a file of rows, or of all images or texts of files.
    """
    if out is not None and not is_folder(out):
        terminal.one_of("--out must end in", Path(out).suffix, (".npz", ".csv", ".parquet"))
    from gen_ray.engine.inference.score import score as measure
    from gen_ray.engine.plots import grids
    from gen_ray.errors import UserError

    loaded = instances.load(model, storage)
    if loaded.spec.is_table and options.data is not None and not options.data.startswith(SOURCES):
        if repeats is not None:
            raise UserError("--repeats: does not apply to a file of rows; raise --effort")
        score_file(loaded, local(options.data), ScoredFile(effort, seed, out, workers))
        return
    if not loaded.spec.is_table and options.data is not None and is_examples(options.data):
        if repeats is not None:
            raise UserError("--repeats: does not apply to files of images or texts; raise --effort")
        score_examples(loaded, local(options.data), ScoredFile(effort, seed, out, workers), resize=options.resize)
        return
    file = None if out is None else local(out)
    if file is not None:
        terminal.one_of("--out must end in", file.suffix, (".npz",))
    x, names = instances.gather(loaded, options, n, storage)
    scores = measure(loaded, x, effort=effort, repeats=repeats or REPEATS, seed=seed, device=instances.device())
    columns = zip(names, scores.bits_per_dim.tolist(), scores.standard_error.tolist(), strict=True)
    lines = [[name, scores.kind, f"{bits:.4f}", f"{error:.4f}"] for name, bits, error in columns]
    title = f"{model}: {scores.repeats} estimates each of {scores.nfe} network evaluations"
    terminal.show_table(title, ["instance", "kind", "bits/dim", "standard error"], lines[:rows])
    if len(lines) > rows:
        typer.echo(f"… and {len(lines) - rows} more")
    if len(lines) > 1:
        typer.echo(
            f"mean of {len(lines)}: {scores.mean:.4f} ± {scores.mean_standard_error:.4f} bits/dim ({scores.kind})"
        )
    if file is not None:
        grids.write_arrays(file, {"bits_per_dim": scores.bits_per_dim, "standard_error": scores.standard_error})
        typer.echo(f"scores: {file}")


if __name__ == "__main__":
    terminal.main(score)
