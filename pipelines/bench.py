"""gen-ray bench: figures as ratios against a baseline that alternates with them in one run."""

import json
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import bench_gpu, constant_load, instances, terminal

if TYPE_CHECKING:
    from gen_ray.bench.baselines import SamplerTimes

Config = Annotated[Path, typer.Argument(help="The experiment's YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value")]
Rounds = Annotated[int, typer.Option(min=1, max=10_000, help="Rounds of each, after one to warm up.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = terminal.new_app()
app.callback()(lambda: None)
app.command()(bench_gpu.gpu)


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    rounds: Rounds = 5,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Optimizer steps of a round.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Training through Ray against a bare PyTorch loop of the same net over a tensor in memory (images per second)."""
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
    header = ["what", "images/s (median)"]
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
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Optimizer steps of a round of training.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Measure reading alone, from memory and streamed, against training, and how long training waits for its data."""
    from gen_ray.bench.cluster.training import ingest_rates
    from gen_ray.experiment import load

    # Memory is what data.cache asks for, so that Ray Data hands the splits to the worker as well.
    experiment = load(config, [*(overrides or []), "scaling.num_workers=1", "data.cache=memory"])
    found = ingest_rates(experiment, rounds=rounds, steps=steps)
    trained = median(found["trained"])
    ways = {
        name: {
            "images_per_second": median(rates),
            "ratio": median(rates) / trained,
            "waiting": median(found["waiting"][name]),
        }
        for name, rates in found["alone"].items()
    }
    if as_json:
        result = {"config": str(config), "rounds": rounds, "trained_images_per_second": trained, "ways": ways}
        typer.echo(json.dumps(result, indent=1))
        return
    header = ["data.cache", "alone, images/s", "times training's rate", "training waits"]
    lines = [
        [name, f"{way['images_per_second']:,.0f}", f"{way['ratio']:.1f}", f"{100 * way['waiting']:.2f} %"]
        for name, way in ways.items()
    ]
    terminal.show_table(f"{experiment.name}: training {trained:,.0f} images/s", header, lines)


@app.command()
def scaling(
    config: Config,
    overrides: Overrides = None,
    workers: Annotated[
        list[int] | None, typer.Option(min=1, max=10_000, help="Again and again; 1 and 2 if left out.")
    ] = None,
    rounds: Rounds = 3,
    steps: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Optimizer steps of a round, after half as many.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Measure numbers of workers against the first of them; the machine's cores are divided among the workers."""
    from gen_ray.bench.cluster.training import scaling_rates
    from gen_ray.experiment import load

    numbers = workers or [1, 2]
    experiments = [load(config, [*(overrides or []), f"scaling.num_workers={number}"]) for number in numbers]
    rates = scaling_rates(experiments, rounds=rounds, steps=steps)
    ratios = [[one / base for one, base in zip(found, rates[0], strict=True)] for found in rates]
    found = [
        {"workers": number, "images_per_second": median(rate), "ratio": median(ratio)}
        for number, rate, ratio in zip(numbers, rates, ratios, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps({"config": str(config), "rounds": rounds, "steps": steps, "scaling": found}, indent=1))
        return
    lines = [[str(row["workers"]), f"{row['images_per_second']:,.0f}", f"{row['ratio']:.2f}"] for row in found]
    terminal.show_table(f"{experiments[0].name}: {rounds} rounds", ["workers", "images/s", "ratio"], lines)


@app.command()
def stream(
    data_mb: Annotated[int, typer.Option(min=100, max=10_000_000, help="Megabytes of pictures to stream.")] = 800,
    store_mb: Annotated[int, typer.Option(min=80, max=10_000_000, help="Megabytes of Ray's object store.")] = 80,
    as_json: AsJson = False,
) -> None:
    """Stream a data set larger than Ray's object store, and tell what memory that takes."""
    from dataclasses import asdict

    from gen_ray.bench.cluster.streaming import MB, stream_larger

    found = stream_larger(data_mb=data_mb, store_mb=store_mb)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    typer.echo(
        f"{found.data_bytes / MB:,.0f} MB through an object store of {found.store_bytes / MB:,.0f} MB: "
        f"{found.rows / found.seconds:,.0f} rows/s, {found.data_bytes / MB / found.seconds:,.0f} MB/s"
    )
    peaks = {"object store": found.peak.store, "spilled": found.peak.spilled}
    peaks |= {"the consumer": found.peak.consumer, "a reader": found.peak.reader}
    typer.echo("at most, MB: " + ", ".join(f"{name} {size / MB:,.0f}" for name, size in peaks.items()))


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="The sweep's YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure a sweep against its trainings one after another, each with all cores, and what a trial costs beyond."""
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
    typer.echo(f"a trial beyond its work: {median(times.overheads):.1f} s (highest {max(times.overheads):.1f})")


@app.command()
def sample(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file; its net is measured untrained.")],
    overrides: Overrides = None,
    sampler: Annotated[list[str] | None, typer.Option(help="Again and again; the default one if left out.")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, max=10_000, help="Again and again; 1 and 16 if left out.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Steps of every sampler; its default if left out.")
    ] = None,
    rounds: Rounds = 7,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the CPU.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure walks along a sampler's table against their network evaluations alone: at 1 all else is free."""
    import torch

    from gen_ray.bench.baselines import sampler_times
    from gen_ray.cluster.training.train import prepare_data
    from gen_ray.engine.training.step import autocast
    from gen_ray.experiment import load

    experiment = load(config, overrides or [])
    family, device = experiment.model(prepare_data(experiment).spec), instances.device()
    torch.set_num_threads(threads)
    net, found = family.build_net().to(device).eval().requires_grad_(False), []
    for name, size in product(sampler or [next(iter(family.samplers()))], batch or [1, 16]):
        chain = family.chain(name, steps)
        with autocast(experiment.training.precision, device):
            timed = sampler_times(net, chain, batch=size, rounds=rounds, device=device)
        found.append({"sampler": name, "batch": size, "nfe": chain.nfe, **_figures(timed, chain.nfe)})
    if as_json:
        typer.echo(json.dumps({"config": str(config), "rounds": rounds, "threads": threads, "walks": found}, indent=1))
        return
    header = ["sampler", "batch", "nfe", "ms an evaluation", "ratio", "lowest", "highest"]
    lines = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()] for row in found]
    terminal.show_table(f"{experiment.name}: {rounds} rounds, {threads} threads", header, lines)


@app.command()
def serve(
    model: instances.ModelName,
    sampler: Annotated[
        list[str] | None, typer.Option(help="NAME=STEPS, again and again; three of the family's own if left out.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Rounds of offline, served and request-level batching.")
    ] = 3,
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="Of saturated load in a round, after a quarter as long.")
    ] = 20,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="Number of concurrent clients.")] = 24,
    overload_seconds: Annotated[float, typer.Option(min=1, max=86_400, help="Of five times the capacity.")] = 30,
    constant_seconds: Annotated[
        float | None,
        typer.Option(
            min=10, max=864_000, help="Measure a constant load of this length instead: latency, errors and memory."
        ),
    ] = None,
    constant_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Of the capacity, in the constant load.")
    ] = 0.5,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8123,
    storage: instances.Storage = Path("gen_ray_runs"),
    as_json: AsJson = False,
) -> None:
    """Measure serving against full batches offline and batching whole requests; alone, beside others, too many."""
    from gen_ray.bench.cluster.serving.measure import BenchPlan, measure
    from gen_ray.bench.cluster.serving.report import figures, kinds
    from gen_ray.cluster.serving.args import ServedModel, ServingApplication

    found = instances.load(model, storage)
    app = ServingApplication(models={"bench": ServedModel(model=model, backlog_seconds=5)}, root=storage)
    if constant_seconds is not None:
        constant_load.show(app, kinds(found.family, sampler), port, constant_seconds, constant_share, as_json)
        return
    plan = BenchPlan(rounds=rounds, seconds=seconds, clients=clients, overload_seconds=overload_seconds)
    measured = figures(measure(app, kinds(found.family, sampler), port, plan))
    if as_json:
        typer.echo(json.dumps({"model": model, "rounds": rounds, **measured}, indent=1))
        return
    lines = [
        [name.replace("_", " "), f"{value:,.3g}" if isinstance(value, float) else str(value)]
        for name, value in measured.items()
    ]
    terminal.show_table(f"{model}: {rounds} rounds of {seconds:g} s, {clients} clients", ["what", "measured"], lines)


def _figures(timed: "SamplerTimes", nfe: int) -> dict[str, float]:
    return {
        "evaluation_milliseconds": 1e3 * median(timed.bare) / nfe,
        "ratio": median(timed.ratios),
        "ratio_lowest": min(timed.ratios),
        "ratio_highest": max(timed.ratios),
    }


if __name__ == "__main__":
    terminal.main(app)
