"""gen-ray sample MODEL: draw samples from a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import instances, terminal
from pipelines.instances import ModelName, Storage
from pipelines.row_files import DrawOptions, SampledFile, sample_file, streams


@terminal.option_groups
def sample(
    model: ModelName,
    rows: SampledFile,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000_000_000, help="Number of samples.")] = 64,
    sampler: Annotated[
        str | None, typer.Option(help="NAME or NAME:option=value. Default: the family's default.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Steps of the sampler. Default: that of the sampler.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed; sample i is a function of (seed, i).")] = 0,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR/|URI",
            help="A .png, .txt or .npz; for rows of a table a .csv or .parquet; for any number of samples a folder of "
            "Parquet files: DIR/ or s3://bucket/prefix. An existing file is replaced. Default: samples with the first "
            "of these suffixes that fits.",
        ),
    ] = None,
    list_samplers: Annotated[bool, typer.Option("--list-samplers", help="List the samplers and exit.")] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Draw samples and write them as a picture, a text, an array, or rows of a table."""
    import time

    loaded, device = instances.load(model, storage), instances.device()
    from gen_ray.engine.inference import samples
    from gen_ray.engine.inference.generate import generate
    from gen_ray.engine.inference.precision import autocast
    from gen_ray.errors import UserError

    if list_samplers:
        terminal.show_chains("sampler", loaded.family.samplers())
        return
    if streams(loaded, out):
        sample_file(loaded, n, rows, out, DrawOptions(1, sampler, steps, seed))
        return
    if rows.where:
        raise UserError(f"--where: needs a model of tables; {loaded.spec.name} holds {loaded.spec.kind}")
    file = samples.file_for(None if out is None else Path(out), loaded.spec)
    samples.check(file, n, loaded.spec)
    chain = loaded.experiment.chain(loaded.family, sampler, steps)
    began = time.perf_counter()
    with autocast(loaded.experiment.training.precision, device):
        drawn = generate(loaded.net, chain, n, seed=seed, device=device)
    samples.save(file, drawn, loaded.spec)
    typer.echo(f"{file}: {n} samples, seed {seed}, nfe {chain.nfe}, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    terminal.main(sample)
