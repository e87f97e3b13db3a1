"""Completions and scores of images and texts in files."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipelines import terminal
from pipelines.row_files import DrawOptions, ImputedFile, ScoredFile
from pipelines.row_jobs import FileJob, Output

if TYPE_CHECKING:
    import numpy as np

    from gen_ray.engine.inference.artifact import Model


def is_examples(data: str) -> bool:
    """Return whether data is a Parquet file or a folder (DIR/), not a source such as parquet:GLOB."""
    return data.endswith(("/", ".parquet")) and not data.startswith(("parquet:", "image_folder:"))


def complete_examples(
    model: "Model", options: ImputedFile, out: str | None, draws: DrawOptions, mask: Path | None, hole: str
) -> None:
    """Complete the images or texts of a file or folder. Raise UserError."""
    from gen_ray.engine.inference.rows.example_tasks import ExampleCompletions
    from gen_ray.engine.inference.rows.examples import inspect
    from gen_ray.engine.inference.rows.impute import MAIN
    from gen_ray.errors import UserError

    assert options.data is not None
    defaults = ImputedFile()
    for name in ("fill", "intervals", "completions"):
        if getattr(options, name) != getattr(defaults, name):
            raise UserError(f"--{name}: needs a model of tables; {model.spec.name} holds {model.spec.kind}")
    target = Output.beside(out, options.data, "completed.parquet")
    terminal.one_of("--out must be a folder (DIR/), or end in", target.suffix, (".parquet",))
    missing = None if mask is None else _missing(mask, model)
    task = ExampleCompletions(k=draws.k, seed=draws.seed, imputer=draws.imputer, steps=draws.steps, missing=missing)
    model.family.impute(draws.imputer or next(iter(model.family.imputers())), draws.steps)  # raises early
    blocks = replace(inspect(options.data, model.spec, hole=hole if model.spec.is_text else ""), copies=draws.k)
    if missing is None and not blocks.missing:
        raise UserError(f"{options.data}: nothing is missing; store null for missing values, or give a --mask")
    FileJob("impute", model, task, blocks, {MAIN: target.path}, target.is_folder).run(options.workers)


def _missing(mask: Path, model: "Model") -> "np.ndarray":
    """Return a mask (*shape) that is True where values are missing."""
    from gen_ray.engine.inference.instances import read_missing

    return read_missing(mask, model.spec)[0].numpy()


def score_examples(model: "Model", data: Path, options: ScoredFile, *, resize: bool) -> None:
    """Score the images or texts of a file or folder, and print the most unusual ones. Raise UserError."""
    from gen_ray.engine.inference.rows.example_tasks import ExampleScores, summary
    from gen_ray.engine.inference.rows.examples import inspect
    from gen_ray.engine.inference.rows.impute import MAIN
    from gen_ray.engine.inference.score import effort_of

    target = Output.beside(options.out, data, "scored.csv")
    effort = effort_of(model, options.effort)
    task = ExampleScores(suffix=target.suffix, effort=effort, seed=options.seed)
    blocks = inspect(data, model.spec, resize=resize)
    job = FileJob("score", model, task, blocks, {MAIN: target.path}, target.is_folder)
    for line in summary(job.run(options.workers)):
        typer.echo(line)
