"""gen-ray impute MODEL: fill in the missing values of an instance."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.storage.user_paths import local
from pipelines import instances, terminal
from pipelines.csv_format import CsvFormat
from pipelines.example_files import complete_examples
from pipelines.instances import ModelName, Seed, Storage
from pipelines.row_files import DrawOptions, ImputedFile, fill_file
from pipelines.row_jobs import SUFFIXES, Output

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.inference.artifact import Model
    from gen_ray.engine.inference.impute import Completions

TILE = 112
"""Width and height of every image in the picture, in pixels."""
PICTURES = (".png", ".npz")
"""Suffixes of the output for images and texts."""
COLUMNS = 4
"""Minimum number of completions per row."""


@dataclass(frozen=True)
class ImputeOptions:
    """The instance to complete: an image and a mask, or a text; optionally the true values of the missing part."""

    image: Annotated[Path | None, typer.Option(help="A picture of the model's size, or an .npz of stored values.")] = (
        None
    )
    mask: Annotated[
        Path | None, typer.Option(help="A picture or .npz of the same size: white, or True, marks missing values.")
    ] = None
    text: Annotated[
        str | None,
        typer.Option(
            help="For text models, e.g. 'To be or not to b____'; short texts are padded with missing characters."
        ),
    ] = None
    hole: Annotated[
        str, typer.Option(help="Character that marks a missing character in --text, or in texts of --data.")
    ] = "_"
    truth: Annotated[
        Path | None,
        typer.Option(
            help="File with the true values (may be --image itself): they are drawn, and their likelihood given the "
            "known part is printed. Kinds: elbo-ct-masked and vlb-masked are upper bounds on −log p(missing | known); "
            "ar-masked is that value; marginal-N, of other models, rates each scalar separately by its N completions: "
            "it is not a bound and depends on -n."
        ),
    ] = None


@terminal.option_groups
def impute(
    model: ModelName,
    instance: ImputeOptions,
    rows: ImputedFile,
    csv: CsvFormat,
    k: Annotated[
        int | None,
        typer.Option(
            "-n", "-k", min=1, max=1_000_000, help="Number of completions. Default: 8; of rows of a table 20."
        ),
    ] = None,
    imputer: Annotated[
        str | None, typer.Option(help="NAME or NAME:option=value. Default: the family's default.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Steps of the imputer. Default: that of the imputer.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR/|URI",
            help="A .png, or an .npz of samples, uncertainty, known and missing; with --data a .csv or .parquet, or a "
            "folder of Parquet files: DIR/ or s3://bucket/prefix. An existing file is replaced.",
        ),
    ] = None,
    list_imputers: Annotated[bool, typer.Option("--list-imputers", help="List the imputers and exit.")] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Complete an image or a text several times, or the rows of a table. The known part is unchanged.

    With --data: fill in the missing cells of a file of rows, or complete all images or texts of files.
    """
    if out is not None and rows.data is not None:
        Output.parse(out)
    elif out is not None:
        terminal.one_of("--out must end in", Path(out).suffix, (*PICTURES, *SUFFIXES))
    from gen_ray.engine.inference.impute import complete

    loaded = instances.load(model, storage)
    if list_imputers:
        terminal.show_chains("imputer", loaded.family.imputers())
        return
    csv.check_table(loaded.spec)
    if loaded.spec.is_table:
        fill_file(loaded, rows, csv, out, DrawOptions(k or 20, imputer, steps, seed))
        return
    if rows.data is not None:
        draws = DrawOptions(k or 8, imputer, steps, seed)
        complete_examples(loaded, rows, out, draws, instance.mask, instance.hole)
        return
    file = None if out is None else local(out)
    if file is not None:
        terminal.one_of("--out must end in", file.suffix, PICTURES)
    k = k or 8
    known, missing = _read(instance, loaded.spec)
    truth = None if instance.truth is None else _one(instance.truth, loaded.spec)
    made = complete(loaded, known, ~missing, k, imputer=imputer, steps=steps, seed=seed, device=instances.device())
    _show(made, known, truth, file)
    typer.echo(f"{int(missing.sum())} of {missing.numel()} values filled in {k} times, seed {seed}, nfe {made.nfe}")
    if unseen := int(made.unseen_known()[0]):
        typer.echo(
            f"{unseen} known positions follow a missing one: this imputer conditions on preceding positions only"
        )
    if truth is not None:
        _show_likelihood(loaded, made, truth, seed)


def _show_likelihood(model: "Model", made: "Completions", truth: "Tensor", seed: int) -> None:
    """Print the likelihood of the true missing values given the known part."""
    from gen_ray.engine.inference.impute import masked_likelihood

    likelihood = masked_likelihood(model, made, truth, seed=seed, device=instances.device())
    bits, nll = float(made.bits_per_dim(likelihood.nll)[0]), likelihood.nll
    typer.echo(f"true missing values: {float(nll.nats[0]):.3f} nats, {bits:.4f} bits/dim ({nll.kind}, nfe {nll.nfe})")
    typer.echo(f"  {nll.kind}: {likelihood.meaning}")


def _read(instance: ImputeOptions, spec: "DataSpec") -> tuple["Tensor", "Tensor"]:
    """Return the instance (1, *shape) and the boolean mask of its missing values (1, *shape)."""
    from gen_ray.datasets import characters
    from gen_ray.engine.inference import instances as reading
    from gen_ray.errors import UserError

    if instance.text is not None:
        if not spec.is_text or instance.image is not None or instance.mask is not None:
            raise UserError(f"--text: needs a text model and neither --image nor --mask; {spec.name} holds {spec.kind}")
        return reading.parse_masked_text(characters.plain(instance.text), spec, instance.hole)
    if instance.image is None or instance.mask is None:
        raise UserError("give --image and --mask (a text model takes --text instead)")
    return _one(instance.image, spec), reading.read_missing(instance.mask, spec)


def _one(file: Path, spec: "DataSpec") -> "Tensor":
    from gen_ray.engine.inference import instances as reading
    from gen_ray.errors import UserError

    x = reading.read(file, spec)
    instances.tell_left_out(file, spec)
    if len(x) != 1:
        raise UserError(f"{file}: holds {len(x)} instances; one is needed")
    return x


def _show(made: "Completions", known: "Tensor", truth: "Tensor | None", out: Path | None) -> None:
    """Print texts, or write the picture or the arrays."""
    from gen_ray.engine.inference import texts
    from gen_ray.engine.plots import grids
    from gen_ray.errors import UserError

    spec = made.spec
    if not spec.is_image and out is not None and out.suffix == ".png":
        raise UserError(f"{out}: completions of {spec.kind} are not a picture; give an --out ending in .npz")
    for sample in made.samples[0] if spec.is_text else ():
        typer.echo(texts.decode_tokens(sample, spec))
    out = out or (Path("completions.png") if spec.is_image else None)
    if out is None:
        return
    if out.suffix == ".png":
        grids.write(out, picture(made, known, truth))
    else:
        arrays = {"samples": made.samples[0], "uncertainty": made.uncertainty()[0], "missing": ~made.mask[0]}
        grids.write_arrays(out, {**arrays, "known": known[0]})
    typer.echo(f"completions: {out}")


def picture(made: "Completions", known: "Tensor", truth: "Tensor | None" = None) -> "np.ndarray":
    """Return a picture (H, W, 3): input, truth if given, mean and standard deviation; below them all completions.

    known and truth are (1, C, H, W). All images have the same size and share columns.
    """
    from gen_ray.engine.plots import grids

    levels, spread = made.spec.levels, made.uncertainty()
    summaries = {
        "masked input": grids.with_missing(known, made.mask, levels=levels),
        **({} if truth is None else {"truth": grids.rgb(truth, levels=levels)}),
        "mean": grids.rgb(made.mean(), levels=levels),
        f"std 0 … {float(spread.mean(1).max()):.2f}": grids.uncertainty_map(spread),
    }
    columns = max(COLUMNS, math.ceil(math.sqrt(made.k)))
    completions = grids.grid(made.samples[0], levels=levels, columns=columns, tile_pixels=TILE, gap=grids.GAP)
    return grids.contact_sheet(
        [
            {title: grids.grid(image, tile_pixels=TILE) for title, image in summaries.items()},
            {f"{made.k} completions, {made.nfe} nfe": completions},
        ]
    )


if __name__ == "__main__":
    terminal.main(impute)
