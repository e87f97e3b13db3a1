"""gen-ray impute MODEL: fill the holes of an instance."""

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
    from gen_ray.engine.impute import Completions

LARGE = 112
"""Pixels of what stands alone under its title."""


@dataclass(frozen=True)
class Given:
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
        Path | None, typer.Option(help="What the holes held (may be --image itself): prints its masked likelihood.")
    ] = None


@terminal.grouped
def impute(
    model: ModelName,
    given: Given,
    k: Annotated[int, typer.Option("-n", min=1, help="How many completions.")] = 8,
    imputer: Annotated[
        str | None, typer.Option(help="NAME or NAME:option=value; the family's default if left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the imputer; its default if left out.")] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="A .png, or .npz of samples, uncertainty, known, holes.")] = None,
    list_imputers: Annotated[bool, typer.Option("--list-imputers", help="Show the imputers and stop.")] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Complete an image or a text k times, the known part kept bit for bit, and show where the completions disagree."""
    if out is not None:
        terminal.one_of("--out must end in", out.suffix, (".png", ".npz"))
    from gen_ray.engine.impute import complete

    found = instances.load(model, storage)
    if list_imputers:
        terminal.show_chains("imputer", found.family.imputers())
        return
    known, holes = _read(given, found.spec)
    truth = None if given.truth is None else _one(given.truth, found.spec)
    made = complete(found, known, ~holes, k, imputer=imputer, steps=steps, seed=seed, device=instances.device())
    _show(made, known, out)
    typer.echo(f"{int(holes.sum())} of {holes.numel()} filled {k} times, seed {seed}, nfe {made.nfe}")
    if unheeded := int(made.unheeded()[0]):
        typer.echo(f"{unheeded} known places follow a hole: this imputer fills one by what stands before it alone")
    if truth is not None:
        _judge(made, truth)


def _read(given: Given, spec: "DataSpec") -> tuple["Tensor", "Tensor"]:
    """Return what is known (1, *shape) and where its holes are (1, *shape)."""
    from gen_ray.engine import instances as reading
    from gen_ray.errors import UserError

    if given.text is not None:
        if not spec.is_text or given.image is not None or given.mask is not None:
            raise UserError(f"--text: is for text models, without --image and --mask; {spec.name} holds {spec.kind}")
        return reading.written(given.text, spec, given.hole)
    if given.image is None or given.mask is None:
        raise UserError("give --image and --mask (a text model takes --text instead)")
    return _one(given.image, spec), reading.read_holes(given.mask, spec)


def _one(file: Path, spec: "DataSpec") -> "Tensor":
    from gen_ray.engine import instances as reading
    from gen_ray.errors import UserError

    x = reading.read(file, spec)
    if len(x) != 1:
        raise UserError(f"{file}: holds {len(x)} instances; one is needed")
    return x


def _show(made: "Completions", known: "Tensor", out: Path | None) -> None:
    """Print texts, and write the picture or the arrays."""
    from gen_ray.engine import plots, texts
    from gen_ray.errors import UserError

    spec = made.spec
    if not spec.is_image and out is not None and out.suffix == ".png":
        raise UserError(f"{out}: completions of {spec.kind} are printed; --out takes an .npz")
    for sample in made.samples[0] if spec.is_text else ():
        typer.echo(texts.speak(sample, spec))
    out = out or (Path("completions.png") if spec.is_image else None)
    if out is None:
        return
    if out.suffix == ".png":
        plots.write(out, picture(made, known))
    else:
        arrays = {"samples": made.samples[0], "uncertainty": made.uncertainty()[0], "holes": ~made.mask[0]}
        plots.write_arrays(out, {**arrays, "known": known[0]})
    typer.echo(f"completions: {out}")


def _judge(made: "Completions", truth: "Tensor") -> None:
    """Print what the completions say of the truth (1, *shape)."""
    nll = made.marginal_nll(truth)
    bits = float(made.bits_per_dim(nll)[0])
    typer.echo(f"truth in the holes: {float(nll.nats[0]):.3f} nats, {bits:.4f} bits/dim ({nll.kind})")


def picture(made: "Completions", known: "Tensor") -> "np.ndarray":
    """Return what was given, its completions, and where they disagree, side by side."""
    from gen_ray.engine import plots

    levels = made.spec.levels
    spread = made.uncertainty()
    return plots.panel(
        {
            "given": plots.grid(plots.holed(known, made.mask, levels=levels), tile_pixels=LARGE),
            f"{made.k} completions": plots.grid(made.samples[0], levels=levels, columns=min(8, made.k)),
            f"std 0…{float(spread.max()):.2f}": plots.grid(plots.shades(spread), tile_pixels=LARGE),
        }
    )


if __name__ == "__main__":
    terminal.main(impute)
