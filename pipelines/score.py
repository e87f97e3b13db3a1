"""gen-ray score MODEL FILE…: the likelihood of instances under a model, in bits per dimension."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.storage.user_paths import local
from pipelines import instances, terminal
from pipelines.csv_format import CsvFormat
from pipelines.example_files import is_examples, score_examples
from pipelines.instances import InstanceOptions, ModelName, Rows, Seed, Storage
from pipelines.row_files import ScoredFile, Workers, score_file
from pipelines.row_jobs import is_folder

if TYPE_CHECKING:
    from torch import Tensor

    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.inference.artifact import Model
    from gen_ray.engine.inference.score import InstanceScores

SOURCES = ("csv:", "parquet:")
"""Prefixes of sources; other --data of a table are files."""

REPEATS = 5
"""Default number of estimates."""


@dataclass(frozen=True)
class ScoredInstances(InstanceOptions):
    """The instances to score: also those of files, whose scores are written to a file."""

    data: Annotated[
        str | None,
        typer.Option(
            help="A file: a .csv or .parquet of rows; a .parquet or a folder (DIR/) of images or texts. Or a source as "
            "in gen-ray prepare SOURCE. Default: the training data."
        ),
    ] = None


@dataclass(frozen=True)
class EstimateOptions:
    """How the bits are estimated."""

    effort: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Draws per estimate. Default: that of the evaluation.")
    ] = None
    repeats: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=10_000,
            help="Number of independent estimates, for the standard error. Default: 5. Not for files of --data.",
        ),
    ] = None
    seed: Seed = 0
    workers: Workers = None


@dataclass(frozen=True)
class ScoreOutput:
    """The number of instances to show, and the file to write."""

    rows: Annotated[int, typer.Option(min=0, max=10_000_000, help="Maximum number of instances to show.")] = 20
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR/|URI",
            help="Write all scores to this .npz; those of a file of rows, images or texts to a .csv or .parquet, or to "
            "a folder of Parquet files: DIR/ or s3://bucket/prefix. An existing file is replaced.",
        ),
    ] = None


@terminal.option_groups
def score(
    model: ModelName,
    options: ScoredInstances,
    csv: CsvFormat,
    estimate: EstimateOptions,
    output: ScoreOutput,
    n: Rows = 200,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Print bits per dimension of instances with kind and standard error, and their mean; for tables bits of each cell.

    With --data FILE or DIR/: write the bits of each row and cell of a file of rows, or of all images or texts of files.
    """
    out, data = output.out, options.data
    if out is not None and not is_folder(out):
        terminal.one_of("--out must end in", Path(out).suffix, (".npz", ".csv", ".parquet"))
    loaded = instances.load(model, storage)
    csv.check_table(loaded.spec)
    if data is not None and _is_file(data, loaded.spec):
        _check_no_repeats(estimate.repeats, loaded.spec)
        file = ScoredFile(estimate.effort, estimate.seed, out, estimate.workers, csv)
        if loaded.spec.is_table:
            score_file(loaded, local(data), file)
        else:
            score_examples(loaded, local(data), file, resize=options.resize)
        return
    csv.check_unused("without a CSV file as --data")
    if out is not None:
        terminal.one_of("--out must end in", local(out).suffix, (".npz",))
    x, names = instances.gather(loaded, options, n, storage)
    scores = _scores(loaded, x, estimate)
    _show(scores, names, model, output.rows)
    if out is not None:
        _write(scores, local(out))


def _scores(model: "Model", x: "Tensor", estimate: EstimateOptions) -> "InstanceScores":
    from gen_ray.engine.inference.score import score as measure

    repeats, device = estimate.repeats or REPEATS, instances.device()
    return measure(model, x, effort=estimate.effort, repeats=repeats, seed=estimate.seed, device=device)


def _write(scores: "InstanceScores", out: Path) -> None:
    from gen_ray.engine.plots import grids

    grids.write_arrays(out, {"bits_per_dim": scores.bits_per_dim, "standard_error": scores.standard_error})
    typer.echo(f"scores: {out}")


def _is_file(data: str, spec: "DataSpec") -> bool:
    """Return whether data is a file or folder whose scores are written, not a source of instances to show."""
    return not data.startswith(SOURCES) if spec.is_table else is_examples(data)


def _check_no_repeats(repeats: int | None, spec: "DataSpec") -> None:
    from gen_ray.errors import UserError

    if repeats is not None:
        of = "a file of rows" if spec.is_table else "files of images or texts"
        raise UserError(f"--repeats: does not apply to {of}; raise --effort")


def _show(scores: "InstanceScores", names: Iterable[str], model: str, rows: int) -> None:
    """Print at most ``rows`` scores, and their mean."""
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


if __name__ == "__main__":
    terminal.main(score)
