"""gen-ray sample MODEL: draw from a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import terminal


def sample(
    model: Annotated[str, typer.Argument(help="A run's id or name, or an artifact folder.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 64,
    sampler: Annotated[
        str | None, typer.Option(help="NAME or NAME:option=value; the family's default if left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler; its default if left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Sample i is a function of (seed, i).")] = 0,
    out: Annotated[Path, typer.Option(help="A .png grid, or .npz with the array 'samples'.")] = Path("samples.png"),
    list_samplers: Annotated[bool, typer.Option("--list-samplers", help="Show the samplers and stop.")] = False,
    storage: Annotated[Path, typer.Option(help="storage.root of the runs.")] = Path("gen_ray_runs"),
) -> None:
    """Draw samples and write them as a picture or an array."""
    terminal.one_of("--out must end in", out.suffix, (".png", ".npz"))
    import time

    import torch

    from gen_ray import runs
    from gen_ray.engine import artifact, plots
    from gen_ray.engine.generate import generate
    from gen_ray.engine.step import autocast

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = artifact.load(runs.find_artifact(model, storage.absolute()), device=device)
    if list_samplers:
        terminal.show_chains(found.family.samplers())
        return
    chain = found.experiment.chain(found.family, sampler, steps)
    began = time.perf_counter()
    with autocast(found.experiment.training.precision, device):
        samples = generate(found.net, chain, n, seed=seed, device=device)
    plots.save(out, samples, found.spec)
    typer.echo(f"{out}: {n} samples, seed {seed}, nfe {chain.nfe}, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    terminal.main(sample)
