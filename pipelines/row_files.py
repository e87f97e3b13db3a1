"""Imputation, scores and samples of files: options and printed lines."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from gen_ray.errors import listed
from pipelines import instances, terminal
from pipelines.csv_format import CsvFormat
from pipelines.row_jobs import FileJob, Output, Workers, is_folder, open_file

if TYPE_CHECKING:
    from gen_ray.engine.inference.artifact import Model
    from gen_ray.engine.inference.rows.impute import ImputeTask

FILLS = ("median", "mean", "mode", "draw")


@dataclass(frozen=True)
class ImputedFile:
    """The file to complete, and how the missing cells of a table are filled."""

    data: Annotated[
        Path | None,
        typer.Option(
            help="A file whose missing values are filled. Models of tables: a CSV or Parquet file. Images and texts: a "
            ".parquet, a folder of these, or a folder of pictures; missing values are null, those of --mask, or in a "
            "column text those of --hole."
        ),
    ] = None
    fill: Annotated[
        str,
        typer.Option(help="For tables: median, mean, mode or draw. Categories get the most probable value, or a draw."),
    ] = "median"
    intervals: Annotated[
        str,
        typer.Option(
            help="For tables: coverage of the prediction intervals NAME_low to NAME_high (for categories, "
            "NAME_probability is that of the value), or none."
        ),
    ] = "0.9"
    completions: Annotated[
        Path | None, typer.Option(help="For tables: a .parquet of all completions, one row for each.")
    ] = None
    workers: Workers = None


@dataclass(frozen=True)
class DrawOptions:
    """The number of completions, and the imputer with its steps and seed."""

    k: int
    imputer: str | None
    steps: int | None
    seed: int


def fill_file(model: "Model", options: ImputedFile, csv: CsvFormat, out: str | None, draws: DrawOptions) -> None:
    """Fill in the missing cells of a file. Raise UserError."""
    from gen_ray.engine.inference.rows import chains
    from gen_ray.engine.inference.rows.impute import COMPLETIONS, MAIN, ImputeTask
    from gen_ray.errors import UserError

    if options.data is None:
        raise UserError(f"--data: {model.spec.name} holds rows of a table; give a .csv or .parquet file of rows")
    terminal.one_of("--fill must be", options.fill, FILLS)
    if options.completions is not None:
        terminal.one_of("--completions must end in", options.completions.suffix, (".parquet",))
    target, coverage = Output.beside(out, options.data, "filled.csv"), _coverage(options.intervals)
    outputs = {MAIN: target.path}
    if options.completions is not None:
        if target.is_folder:
            raise UserError(f"--completions: needs one file as --out, not the folder {out}")
        outputs[COMPLETIONS] = options.completions
        Output(options.completions, False).check(options.data, "completions")
        if options.completions.resolve() == target.path.resolve():
            raise UserError(f"--completions={target.path}: is the same file as --out; name another one")
    exact = chains.has_marginals(model, instances.device())
    copies = draws.k if options.completions is not None or not exact else 1
    task = ImputeTask(
        source=replace(open_file(options.data, model, csv), copies=copies),
        suffix=target.suffix,
        fill=cast(Any, options.fill),
        coverage=coverage,
        with_completions=options.completions is not None,
        exact=exact,
        **vars(draws),
    )
    task.check()
    _show_missing(task, draws.k)
    FileJob("impute", model, task, task.source, outputs, target.is_folder).run(options.workers)


def _show_missing(task: "ImputeTask", k: int) -> None:
    """Print the share of missing cells by column, and how they are summarised."""
    rows = max(task.source.rows, 1)
    shares = [f"{task.source.columns[d].name} {task.source.missing[d] / rows:.1%}" for d in task.filled_columns]
    typer.echo(f"missing cells: {listed(shares) or 'none'}")
    if not task.filled_columns:
        return
    way = "the model's exact distribution of each cell" if task.exact else f"{k} draws of each row"
    typer.echo(f"values and intervals: from {way}")
    if not task.exact and task.coverage is not None and k < 2 / (1 - task.coverage) - 1:
        least = math.ceil(2 / (1 - task.coverage) - 1)
        typer.echo(f"the intervals of {k} draws are too narrow; -k {least} or more gives {task.coverage:.0%}", err=True)


def _coverage(text: str) -> float | None:
    from gen_ray.errors import UserError

    if text == "none":
        return None
    try:
        coverage = float(text)
    except ValueError:
        coverage = 0.0
    if not 0 < coverage < 1:
        raise UserError(f"--intervals={text}: must be none, or a number between 0 and 1 such as 0.9")
    return coverage


@dataclass(frozen=True)
class ScoredFile:
    """How a file is scored."""

    effort: int | None
    seed: int
    out: str | None
    workers: int | None
    csv: CsvFormat


def score_file(model: "Model", data: Path, options: ScoredFile) -> None:
    """Score the rows and cells of a file, and print the most unusual ones. Raise UserError."""
    from gen_ray.engine.inference.rows.impute import MAIN
    from gen_ray.engine.inference.rows.score import ScoreTask, expected_bits, summary
    from gen_ray.engine.inference.score import effort_of

    out = Output.beside(options.out, data, "scored.csv")
    blocks = open_file(data, model, options.csv)
    effort = effort_of(model, options.effort)
    expected = expected_bits(model, effort, instances.device())
    task = ScoreTask(source=blocks, suffix=out.suffix, effort=effort, seed=options.seed, expected=expected)
    task.check()
    job = FileJob("score", model, task, blocks, {MAIN: out.path}, out.is_folder)
    for line in summary(job.run(options.workers), expected):
        typer.echo(line)


@dataclass(frozen=True)
class SampledFile:
    """Where samples are written, and the conditions on rows."""

    where: Annotated[
        list[str] | None,
        typer.Option(
            help="For models of tables: COLUMN=VALUE, COLUMN=LOW..HIGH or COLUMN=VALUE|VALUE. May be repeated."
        ),
    ] = None
    workers: Workers = None


def streams(model: "Model", out: str | None) -> bool:
    """Return whether samples are written block by block: rows of a table, or any data to a folder."""
    return model.spec.is_table or (out is not None and is_folder(out))


def sample_file(model: "Model", n: int, options: SampledFile, out: str | None, chain: DrawOptions) -> None:
    """Draw n samples and write them to a .csv or .parquet file, or to a folder of Parquet files. Raise UserError."""
    from gen_ray.engine.inference.rows.blocks import DrawnBlocks, rows_per_block
    from gen_ray.engine.inference.rows.conditions import parse_conditions
    from gen_ray.engine.inference.rows.impute import MAIN
    from gen_ray.engine.inference.rows.sample import SampleTask, describe, plan
    from gen_ray.errors import UserError

    target = Output.parse(out or "samples.csv")
    if options.where and not model.spec.is_table:
        raise UserError(f"--where: needs a model of tables; {model.spec.name} holds {model.spec.kind}")
    task = SampleTask(
        suffix=target.suffix,
        seed=chain.seed,
        sampler=chain.imputer,
        steps=chain.steps,
        conditions=parse_conditions(options.where or [], model.spec),
    )
    if options.where:
        task = plan(task, model, instances.device())
        for line in describe(task, model):
            typer.echo(line)
    task.chain(model)
    blocks = DrawnBlocks(n, rows_per_block(n, examples=not model.spec.is_table, cells=model.spec.dims))
    statistics = FileJob("sample", model, task, blocks, {MAIN: target.path}, target.is_folder).run(options.workers)
    if task.conditions.allowed:
        candidates = sum(block["candidates"] for block in statistics)
        typer.echo(f"accepted: {n / candidates:.1%} of {candidates:,} candidates")
