"""gen-ray bench: measure speed as a ratio to a baseline; both alternate within one run."""

import json
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import bench_gpu, bench_impute, bench_serve, instances, terminal
from pipelines.terminal import AsJson

if TYPE_CHECKING:
    from gen_ray.bench.baselines import SamplerTimes

Config = Annotated[Path, typer.Argument(help="The experiment's YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as key=value.")]
Rounds = Annotated[int, typer.Option(min=1, max=10_000, help="Number of rounds, after one warm-up round.")]

app = terminal.new_group()
app.command()(bench_gpu.gpu)
app.command()(bench_impute.impute)


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    rounds: Rounds = 5,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Optimizer steps per round.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Compare training through Ray with a bare PyTorch loop: same net, data in memory (examples per second)."""
    from gen_ray.bench.cluster.training import train_rates
    from gen_ray.experiment import load

    experiment = load(config, [*(overrides or []), "scaling.num_workers=1"])  # one process against one process
    rates = train_rates(experiment, rounds=rounds, steps=steps)
    ratios = [ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)]
    result = {
        "config": str(config),
        "rounds": rounds,
        "steps": steps,
        "bare_images_per_second": median(rates["bare"]),
        "gen_ray_images_per_second": median(rates["ours"]),
        "ratio": median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    header = ["what", "examples/s (median)"]
    lines = [
        ["bare loop", f"{result['bare_images_per_second']:,.0f}"],
        ["gen-ray", f"{result['gen_ray_images_per_second']:,.0f}"],
    ]
    terminal.show_table(f"{experiment.name}: {rounds} rounds of {steps} steps", header, lines)
    typer.echo(f"ratio {result['ratio']:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f})")


@app.command()
def ingest(
    config: Config,
    overrides: Overrides = None,
    rounds: Rounds = 5,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Optimizer steps per round of training.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Compare reading of data (from memory, streamed) with training, and measure how long training waits for data."""
    from gen_ray.bench.cluster.training import ingest_rates
    from gen_ray.experiment import load

    # With data.cache=memory, Ray Data passes the splits to the worker as well.
    experiment = load(config, [*(overrides or []), "scaling.num_workers=1", "data.cache=memory"])
    measured = ingest_rates(experiment, rounds=rounds, steps=steps)
    trained = median(measured["trained"])
    ways = {
        name: {
            "images_per_second": median(rates),
            "ratio": median(rates) / trained,
            "waiting": median(measured["waiting"][name]),
        }
        for name, rates in measured["reading"].items()
    }
    if as_json:
        result = {"config": str(config), "rounds": rounds, "trained_images_per_second": trained, "ways": ways}
        typer.echo(json.dumps(result, indent=1))
        return
    header = ["data.cache", "reading only, examples/s", "times training's rate", "training waits"]
    lines = [
        [name, f"{way['images_per_second']:,.0f}", f"{way['ratio']:.1f}", f"{100 * way['waiting']:.2f} %"]
        for name, way in ways.items()
    ]
    terminal.show_table(f"{experiment.name}: training {trained:,.0f} examples/s", header, lines)


@app.command()
def scaling(
    config: Config,
    overrides: Overrides = None,
    workers: Annotated[
        list[int] | None, typer.Option(min=1, max=10_000, help="Number of workers. May be repeated. Default: 1 and 2.")
    ] = None,
    rounds: Rounds = 3,
    steps: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Optimizer steps per round, after a warm-up of half as many.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Compare training at several numbers of workers with the first number; the workers share the machine's cores."""
    from gen_ray.bench.cluster.training import scaling_rates
    from gen_ray.experiment import load

    numbers = workers or [1, 2]
    experiments = [load(config, [*(overrides or []), f"scaling.num_workers={number}"]) for number in numbers]
    rates = scaling_rates(experiments, rounds=rounds, steps=steps)
    ratios = [[rate / base for rate, base in zip(rows, rates[0], strict=True)] for rows in rates]
    rows = [
        {"workers": number, "images_per_second": median(rate), "ratio": median(ratio)}
        for number, rate, ratio in zip(numbers, rates, ratios, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps({"config": str(config), "rounds": rounds, "steps": steps, "scaling": rows}, indent=1))
        return
    lines = [[str(row["workers"]), f"{row['images_per_second']:,.0f}", f"{row['ratio']:.2f}"] for row in rows]
    terminal.show_table(f"{experiments[0].name}: {rounds} rounds", ["workers", "examples/s", "ratio"], lines)


@app.command()
def stream(
    data_mb: Annotated[
        int, typer.Option(min=100, max=10_000_000, help="Size of the streamed images, in megabytes.")
    ] = 800,
    store_mb: Annotated[
        int, typer.Option(min=80, max=10_000_000, help="Size of Ray's object store, in megabytes.")
    ] = 80,
    as_json: AsJson = False,
) -> None:
    """Stream a data set larger than Ray's object store, and report the peak memory."""
    from dataclasses import asdict

    from gen_ray.bench.cluster.streaming import MB, stream_larger

    figures = stream_larger(data_mb=data_mb, store_mb=store_mb)
    if as_json:
        typer.echo(json.dumps(asdict(figures), indent=1))
        return
    typer.echo(
        f"{figures.data_bytes / MB:,.0f} MB through an object store of {figures.store_bytes / MB:,.0f} MB: "
        f"{figures.rows / figures.seconds:,.0f} rows/s, {figures.data_bytes / MB / figures.seconds:,.0f} MB/s"
    )
    peaks = {"object store": figures.peak.store, "spilled": figures.peak.spilled}
    peaks |= {"the consumer": figures.peak.consumer, "a reader": figures.peak.reader}
    typer.echo("peak memory, MB: " + ", ".join(f"{name} {size / MB:,.0f}" for name, size in peaks.items()))


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="The sweep's YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare a sweep with its trainings run one after another on all cores, and measure the overhead of a trial."""
    from gen_ray.bench.cluster.training import sweep_times

    with TemporaryDirectory(prefix="gen-ray-bench-") as folder:
        times = sweep_times(config, overrides or [], Path(folder))
    result = {
        "config": str(config),
        "trials": len(times.trainings),
        "sweep_seconds": times.sweep,
        "trainings_seconds": sum(times.trainings),
        "ratio": times.sweep / sum(times.trainings),
        "trial_overhead_seconds": median(times.overheads),
        "trial_overhead_seconds_highest": max(times.overheads),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    lines = [
        ["sweep", f"{times.sweep:.0f}"],
        ["trainings one by one", " + ".join(f"{seconds:.0f}" for seconds in times.trainings)],
    ]
    terminal.show_table(f"{config.name}: {result['trials']} trials", ["what", "seconds"], lines)
    typer.echo(f"ratio {result['ratio']:.2f}")
    typer.echo(f"overhead of a trial: {median(times.overheads):.1f} s (highest {max(times.overheads):.1f})")


@app.command()
def sample(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file; the net is not trained.")],
    overrides: Overrides = None,
    sampler: Annotated[
        list[str] | None, typer.Option(help="Sampler to measure. May be repeated. Default: the family's default.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, max=10_000, help="Batch size. May be repeated. Default: 1 and 16.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Steps of every sampler. Default: that of each sampler.")
    ] = None,
    rounds: Rounds = 7,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Number of CPU threads.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Compare the time of sampling with that of its network evaluations only: a ratio of 1 means no overhead."""
    import torch

    from gen_ray.bench.baselines import sampler_times
    from gen_ray.cluster.data.preparation import prepare_data
    from gen_ray.engine.inference.precision import autocast
    from gen_ray.experiment import load

    experiment = load(config, overrides or [])
    family, device = experiment.model(prepare_data(experiment).spec), instances.device()
    torch.set_num_threads(threads)
    net, figures = family.build_net().to(device).eval().requires_grad_(False), []
    for name, size in product(sampler or [next(iter(family.samplers()))], batch or [1, 16]):
        chain = family.chain(name, steps)
        with autocast(experiment.training.precision, device):
            timed = sampler_times(net, chain, batch=size, rounds=rounds, device=device)
        figures.append({"sampler": name, "batch": size, "nfe": chain.nfe, **_figures(timed, chain.nfe)})
    if as_json:
        result = {"config": str(config), "rounds": rounds, "threads": threads, "walks": figures}
        typer.echo(json.dumps(result, indent=1))
        return
    header = ["sampler", "batch", "nfe", "ms an evaluation", "ratio", "lowest", "highest"]
    lines = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()] for row in figures]
    terminal.show_table(f"{experiment.name}: {rounds} rounds, {threads} threads", header, lines)


app.command()(bench_serve.serve)


def _figures(timed: "SamplerTimes", nfe: int) -> dict[str, float]:
    return {
        "evaluation_milliseconds": 1e3 * median(timed.bare) / nfe,
        "ratio": median(timed.ratios),
        "ratio_lowest": min(timed.ratios),
        "ratio_highest": max(timed.ratios),
    }


if __name__ == "__main__":
    terminal.main(app)
