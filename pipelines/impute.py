"""gen-ray impute MODEL: fill the holes of an instance."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import instances, terminal
from pipelines.instances import ModelName, Seed, Storage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.inference.impute import Completions

TILE = 112
"""Pixels of every image in the picture, so that one compares with another."""
COLUMNS = 4
"""Completions in a row, at least."""


@dataclass(frozen=True)
class ImputeOptions:
    """What is to be completed: an image and a mask, or a text; and, if it is known, the truth in its holes."""

    image: Annotated[Path | None, typer.Option(help="A picture of the model's size, or .npz of stored values.")] = None
    mask: Annotated[
        Path | None, typer.Option(help="A picture or .npz of the same size: white, or True, is a hole to fill.")
    ] = None
    text: Annotated[
        str | None, typer.Option(help="For text models, e.g. 'To be or not to b____'; what is short goes on in holes.")
    ] = None
    hole: Annotated[str, typer.Option(help="The character that marks a hole in --text.")] = "_"
    truth: Annotated[
        Path | None,
        typer.Option(
            help="What the holes held (may be --image itself): is drawn, and judged given the known part. Kinds: "
            "elbo-ct-masked, vlb-masked, the model's own upper bound on −log p(holes | known); ar-masked, that itself; "
            "from models without these marginal-N, each scalar alone by its N completions: no bound, depends on -n."
        ),
    ] = None


@terminal.grouped
def impute(
    model: ModelName,
    given: ImputeOptions,
    k: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="How many completions.")] = 8,
    imputer: Annotated[
        str | None, typer.Option(help="NAME or NAME:option=value; the family's default if left out.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Steps of the imputer; its default if left out.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="A .png, or .npz of samples, uncertainty, known, holes. Replaces a file."),
    ] = None,
    list_imputers: Annotated[bool, typer.Option("--list-imputers", help="Show the imputers and stop.")] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Complete an image or a text k times, the known part kept bit for bit, and show where the completions disagree."""
    if out is not None:
        terminal.one_of("--out must end in", out.suffix, (".png", ".npz"))
    from gen_ray.engine.inference.impute import complete, masked_likelihood

    found = instances.load(model, storage)
    if list_imputers:
        terminal.show_chains("imputer", found.family.imputers())
        return
    known, holes = _read(given, found.spec)
    truth = None if given.truth is None else _one(given.truth, found.spec)
    made = complete(found, known, ~holes, k, imputer=imputer, steps=steps, seed=seed, device=instances.device())
    _show(made, known, truth, out)
    typer.echo(f"{int(holes.sum())} of {holes.numel()} filled {k} times, seed {seed}, nfe {made.nfe}")
    if unheeded := int(made.unseen_known()[0]):
        typer.echo(f"{unheeded} known places follow a hole: this imputer fills one by what stands before it alone")
    if truth is not None:
        judged = masked_likelihood(found, made, truth, seed=seed, device=instances.device())
        bits, nll = float(made.bits_per_dim(judged.nll)[0]), judged.nll
        typer.echo(
            f"truth in the holes: {float(nll.nats[0]):.3f} nats, {bits:.4f} bits/dim ({nll.kind}, nfe {nll.nfe})"
        )
        typer.echo(f"  {nll.kind}: {judged.meaning}")


def _read(given: ImputeOptions, spec: "DataSpec") -> tuple["Tensor", "Tensor"]:
    """Return what is known (1, *shape) and where its holes are (1, *shape)."""
    from gen_ray.engine.inference import instances as reading
    from gen_ray.errors import UserError

    if given.text is not None:
        if not spec.is_text or given.image is not None or given.mask is not None:
            raise UserError(f"--text: is for text models, without --image and --mask; {spec.name} holds {spec.kind}")
        return reading.parse_masked_text(given.text, spec, given.hole)
    if given.image is None or given.mask is None:
        raise UserError("give --image and --mask (a text model takes --text instead)")
    return _one(given.image, spec), reading.read_missing(given.mask, spec)


def _one(file: Path, spec: "DataSpec") -> "Tensor":
    from gen_ray.engine.inference import instances as reading
    from gen_ray.errors import UserError

    x = reading.read(file, spec)
    instances.tell_left_out(file, spec)
    if len(x) != 1:
        raise UserError(f"{file}: holds {len(x)} instances; one is needed")
    return x


def _show(made: "Completions", known: "Tensor", truth: "Tensor | None", out: Path | None) -> None:
    """Print texts, and write the picture or the arrays."""
    from gen_ray.engine.inference import texts
    from gen_ray.engine.plots import grids
    from gen_ray.errors import UserError

    spec = made.spec
    if not spec.is_image and out is not None and out.suffix == ".png":
        raise UserError(f"{out}: completions of {spec.kind} are printed; --out takes an .npz")
    for sample in made.samples[0] if spec.is_text else ():
        typer.echo(texts.decode_tokens(sample, spec))
    out = out or (Path("completions.png") if spec.is_image else None)
    if out is None:
        return
    if out.suffix == ".png":
        grids.write(out, picture(made, known, truth))
    else:
        arrays = {"samples": made.samples[0], "uncertainty": made.uncertainty()[0], "holes": ~made.mask[0]}
        grids.write_arrays(out, {**arrays, "known": known[0]})
    typer.echo(f"completions: {out}")


def picture(made: "Completions", known: "Tensor", truth: "Tensor | None" = None) -> "np.ndarray":
    """Return what was given, the truth if it is known, mean and spread of the completions, and below them all of these.

    known and truth are (1, C, H, W). All images are of one size, and stand in the same columns.
    """
    from gen_ray.engine.plots import grids

    levels, spread = made.spec.levels, made.uncertainty()
    alone = {
        "given + hole": grids.with_missing(known, made.mask, levels=levels),
        **({} if truth is None else {"truth": grids.rgb(truth, levels=levels)}),
        "mean": grids.rgb(made.mean(), levels=levels),
        f"std 0 … {float(spread.mean(1).max()):.2f}": grids.uncertainty_map(spread),
    }
    columns = max(COLUMNS, math.ceil(math.sqrt(made.k)))
    completions = grids.grid(made.samples[0], levels=levels, columns=columns, tile_pixels=TILE, gap=grids.GAP)
    return grids.contact_sheet(
        [
            {title: grids.grid(image, tile_pixels=TILE) for title, image in alone.items()},
            {f"{made.k} completions, {made.nfe} nfe": completions},
        ]
    )


if __name__ == "__main__":
    terminal.main(impute)
