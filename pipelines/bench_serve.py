"""gen-ray bench serve: compare serving with offline batches; latency, overload and constant load."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import instances, terminal

if TYPE_CHECKING:
    from gen_ray.bench.cluster.serving.load import RequestKind
    from gen_ray.cluster.serving.args import ServingApplication


@dataclass(frozen=True)
class LoadOptions:
    """The load of the measurement."""

    rounds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Rounds of offline, served and request-level batching.")
    ] = 3
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds of saturated load per round; the warm-up takes a quarter.")
    ] = 20
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="Number of concurrent clients.")] = 24
    overload_seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds of load at five times the capacity.")
    ] = 30
    constant_seconds: Annotated[
        float | None,
        typer.Option(
            min=10,
            max=864_000,
            help="Instead, measure latency, errors and memory under constant load for this time, in seconds.",
        ),
    ] = None
    constant_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Constant load as a share of the capacity.")
    ] = 0.5
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the measured server.")] = 8123


@terminal.option_groups
def serve(
    model: instances.ModelName,
    *,
    sampler: Annotated[
        list[str] | None, typer.Option(help="NAME=STEPS. May be repeated. Default: three of the family's samplers.")
    ] = None,
    load: LoadOptions,
    storage: instances.Storage = Path("gen_ray_runs"),
    as_json: terminal.AsJson = False,
) -> None:
    """Compare serving with full offline batches and with request-level batching; also latency and overload."""
    from gen_ray.bench.cluster.serving.measure import BenchPlan, measure
    from gen_ray.bench.cluster.serving.report import figures, kinds
    from gen_ray.cluster.serving.args import ServedModel, ServingApplication

    loaded = instances.load(model, storage)
    app = ServingApplication(models={"bench": ServedModel(model=model, backlog_seconds=5)}, root=storage)
    if load.constant_seconds is not None:
        _show_constant_load(app, kinds(loaded.family, sampler), load, load.constant_seconds, as_json)
        return
    plan = BenchPlan(
        rounds=load.rounds, seconds=load.seconds, clients=load.clients, overload_seconds=load.overload_seconds
    )
    measured = figures(measure(app, kinds(loaded.family, sampler), load.port, plan))
    if as_json:
        typer.echo(json.dumps({"model": model, "rounds": load.rounds, **measured}, indent=1))
        return
    lines = [
        [name.replace("_", " "), f"{value:,.3g}" if isinstance(value, float) else str(value)]
        for name, value in measured.items()
    ]
    title = f"{model}: {load.rounds} rounds of {load.seconds:g} s, {load.clients} clients"
    terminal.show_table(title, ["what", "measured"], lines)


def _show_constant_load(
    app: "ServingApplication", kinds: "list[RequestKind]", load: LoadOptions, seconds: float, as_json: bool
) -> None:
    """Measure a constant load and print the results."""
    from gen_ray.bench.cluster.serving.constant import constant

    share = load.constant_share
    figures = constant(app, kinds, load.port, seconds=seconds, share=share).figures()
    if as_json:
        typer.echo(json.dumps({"seconds": seconds, "share": share, **figures}, indent=1))
        return
    parts = figures.pop("parts")
    memory = [f"{name} MiB" for name in parts[-1]["memory_mib"]]
    header = ["s", "requests", "errors", "median s", "p99 s", *memory, "files"]
    lines = [
        [
            f"{part['end_seconds']:.0f}",
            str(part["requests"]),
            str(part["errors"]),
            f"{part['median_seconds']:.3f}",
            f"{part['p99_seconds']:.3f}",
            *(f"{size:.0f}" for size in part["memory_mib"].values()),
            f"{part['open_files']:.0f}",
        ]
        for part in parts
    ]
    terminal.show_table(f"{figures['requests_per_second']:.2f} requests a second for {seconds:g} s", header, lines)
    for name, value in figures.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")
