"""gen-ray latent: encodings, reconstructions, interpolations and maps of a model's latent space."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import instances, terminal
from pipelines.instances import InstanceOptions, ModelName, Rows, Seed, Storage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gen_ray.engine.inference.artifact import Model
    from gen_ray.engine.inference.latent import RefinedPosterior

app = terminal.new_group()

COLUMNS = 16
"""Maximum number of instances per row."""

Refine = Annotated[
    int,
    typer.Option(
        min=0, max=100_000, help="Steps of variational inference per instance; prints the amortisation gap. 0: none."
    ),
]


@app.command()
@terminal.option_groups
def encode(
    model: ModelName,
    options: InstanceOptions,
    n: Rows = 200,
    refine: Refine = 0,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option(help="The .npz file to write: mu, log_var (N, Z) and kl_nats; --refine adds arrays.")
    ] = Path("features.npz"),
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Write the approximate posterior q(z|x) of instances as features."""
    terminal.one_of("--out must end in", out.suffix, (".npz",))
    from gen_ray.engine.inference import latent
    from gen_ray.engine.plots import grids as plots

    loaded, x = _gathered(model, options, n, storage)
    where = instances.device()
    posterior = latent.encode(loaded, x, seed=seed, device=where)
    arrays = {"mu": posterior.mu, "log_var": posterior.log_var, "kl_nats": posterior.kl()}
    if refine:
        better = latent.refine(loaded, x, steps=refine, seed=seed, device=where)
        q = better.posterior
        arrays |= {"refined_mu": q.mu, "refined_log_var": q.log_var, "amortisation_gap_nats": better.gap_nats}
        _show_gap(better)
    plots.write_arrays(out, arrays)
    typer.echo(f"{out}: {', '.join(arrays)} of {len(x)} instances, {posterior.mu.shape[1]} latent dimensions")


@app.command()
@terminal.option_groups
def reconstruct(
    model: ModelName,
    options: InstanceOptions,
    n: Rows = 16,
    refine: Refine = 0,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option(help="The PNG file to write: originals, reconstructions, refined reconstructions.")
    ] = Path("reconstructions.png"),
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Draw instances and, below them, their reconstructions: the mean of p(x|z) at the mean of q(z|x)."""
    terminal.one_of("--out must end in", out.suffix, (".png",))
    from gen_ray.engine.inference import latent
    from gen_ray.engine.plots import grids as plots

    loaded, x = _gathered(model, options, n, storage)
    where = instances.device()
    rows = {
        "instances": x,
        "reconstructed: mean of p(x|z) at the mean of q(z|x)": latent.decode(
            loaded, latent.encode(loaded, x, seed=seed, device=where).mu
        ),
    }
    if refine:
        better = latent.refine(loaded, x, steps=refine, seed=seed, device=where)
        title = f"refined: the same, q(z|x) after {refine} steps of inference"
        rows[title] = latent.decode(loaded, better.posterior.mu)
        _show_gap(better)
    plots.write(out, _blocks(rows, loaded.spec.levels))
    typer.echo(f"{out}: {len(x)} instances and their reconstructions")


@app.command()
@terminal.option_groups
def interpolate(
    model: ModelName,
    options: InstanceOptions,
    n: Annotated[int, typer.Option("-n", min=2, max=10_000_000, help="Number of instances of a source.")] = 5,
    steps: Annotated[int, typer.Option(min=2, max=10_000, help="Images per interpolation, including both ends.")] = 9,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="The PNG file to write, one row per interpolation.")] = Path(
        "interpolation.png"
    ),
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Draw linear interpolations in latent space from each instance to the next."""
    terminal.one_of("--out must end in", out.suffix, (".png",))
    from gen_ray.engine.inference import latent
    from gen_ray.engine.plots import grids as plots
    from gen_ray.errors import UserError

    loaded, x = _gathered(model, options, n, storage)
    if len(x) < 2:
        raise UserError("one instance: an interpolation needs two; give another file")
    ways = latent.interpolate(loaded, x, steps=steps, seed=seed, device=instances.device())
    columns = {
        "from": (x[:-1], 1),
        "linear interpolation between the means of q(z|x)": (ways.flatten(0, 1), steps),
        "to": (x[1:], 1),
    }
    levels = loaded.spec.levels
    grids = {title: plots.grid(part, levels=levels, columns=wide) for title, (part, wide) in columns.items()}
    plots.write(out, plots.panel(grids))
    typer.echo(f"{out}: {len(ways)} interpolations of {steps} images")


@app.command()
def manifold(
    model: ModelName,
    side: Annotated[int, typer.Option(min=2, max=100, help="Images per side of the map.")] = 20,
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("manifold.png"),
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Draw a map of a two-dimensional latent space on a grid of equally spaced quantiles of the prior."""
    terminal.one_of("--out must end in", out.suffix, (".png",))
    from gen_ray.engine.inference import latent
    from gen_ray.engine.plots import grids as plots

    loaded = instances.load(model, storage)
    images = latent.manifold(loaded, side=side, device=instances.device())
    picture = plots.grid(images, levels=loaded.spec.levels, columns=side, tile_pixels=32, gap=2)
    low, high = 0.5 / side, 1 - 0.5 / side
    plots.write(out, plots.panel({f"prior's quantiles {low:.3g} … {high:.3g}: z1 to the right, z2 upwards": picture}))
    typer.echo(f"{out}: {side} x {side} images")


def _gathered(model: str, options: InstanceOptions, n: int, storage: Path) -> tuple["Model", "Tensor"]:
    """Return the model and the instances (N, *shape). Raise UserError if the model has no latent space."""
    from gen_ray.engine.inference import latent

    loaded = instances.load(model, storage)
    latent.latent_family(loaded)
    x, _ = instances.gather(loaded, options, n, storage)
    return loaded, x


def _blocks(rows: Mapping[str, "Tensor"], levels: int) -> "np.ndarray":
    """Return a picture (H, W, 3): the titled rows of images (N, C, H, W) in blocks of COLUMNS instances."""
    from gen_ray.engine.plots import grids as plots

    n = len(next(iter(rows.values())))
    blocks = [slice(first, min(first + COLUMNS, n)) for first in range(0, n, COLUMNS)]
    return plots.contact_sheet(
        [
            {
                f"{title} ({block.start} … {block.stop - 1})": plots.grid(
                    images[block], levels=levels, columns=min(COLUMNS, n)
                )
            }
            for block in blocks
            for title, images in rows.items()
        ]
    )


def _show_gap(better: "RefinedPosterior") -> None:
    gap, n = better.gap_nats, len(better.gap_nats)
    error = float(better.gap_standard_error.square().sum().sqrt()) / n
    worst = int(gap.argmax())
    typer.echo(
        f"amortisation gap: {float(gap.mean()):.3f} ± {error:.3f} nats on average, "
        f"{float(gap.max()):.3f} at most (instance {worst}); refined ELBO {float(better.elbo_nats.mean()):.3f} nats"
    )


if __name__ == "__main__":
    terminal.main(app)
