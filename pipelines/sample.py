"""gen-ray sample MODEL: draw samples from a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import instances, terminal
from pipelines.instances import ModelName, Storage


def sample(
    model: ModelName,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="Number of samples.")] = 64,
    sampler: Annotated[
        str | None, typer.Option(help="NAME or NAME:option=value. Default: the family's default.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Steps of the sampler. Default: that of the sampler.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed; sample i is a function of (seed, i).")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="A .png, .txt or .npz; an existing file is replaced. Default: samples.png, .txt or .npz."),
    ] = None,
    list_samplers: Annotated[bool, typer.Option("--list-samplers", help="List the samplers and exit.")] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Draw samples and write them as a picture, a text or an array."""
    import time

    loaded, device = instances.load(model, storage), instances.device()
    from gen_ray.engine.inference import samples
    from gen_ray.engine.inference.generate import generate
    from gen_ray.engine.inference.precision import autocast

    if list_samplers:
        terminal.show_chains("sampler", loaded.family.samplers())
        return
    file = samples.file_for(out, loaded.spec)
    samples.check(file, n, loaded.spec)
    chain = loaded.experiment.chain(loaded.family, sampler, steps)
    began = time.perf_counter()
    with autocast(loaded.experiment.training.precision, device):
        drawn = generate(loaded.net, chain, n, seed=seed, device=device)
    samples.save(file, drawn, loaded.spec)
    typer.echo(f"{file}: {n} samples, seed {seed}, nfe {chain.nfe}, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    terminal.main(sample)
