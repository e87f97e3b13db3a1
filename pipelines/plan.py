"""gen-ray plan: predict time, memory and storage of a run by number of machines."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import terminal

if TYPE_CHECKING:
    from gen_ray.bench.planner import Forecast, RunWorkload, StepCost, Topology
    from gen_ray.experiment import Experiment

MB = 2**20


@dataclass(frozen=True)
class MachineOptions:
    """The planned machines and the links between them."""

    nodes: Annotated[int, typer.Option(min=1, max=100_000, help="Number of machines.")] = 1
    gpus_per_node: Annotated[int, typer.Option(min=1, max=1024, help="GPUs per machine, one per worker.")] = 1
    link_gbps: Annotated[float, typer.Option(min=0.001, max=1e9, help="Bandwidth between machines, Gbit/s.")] = 10
    node_gbps: Annotated[
        float, typer.Option(min=0.001, max=1e9, help="Bandwidth between the GPUs of a machine, Gbit/s.")
    ] = 200
    latency_us: Annotated[float, typer.Option(min=0, max=1e9, help="Latency of a message, microseconds.")] = 50


@terminal.option_groups
def plan(
    machines: MachineOptions,
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings as key=value, or further YAML files.")] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="Measured rate of one worker, EXAMPLES_PER_SECOND@ROWS, in place of measuring; give two."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, max=10**15, help="Training rows to plan for. Default: those of the configured data."),
    ] = None,
    check: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10_000, help="Compare the plan with this number of workers here. May be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds of each measurement.")] = 3,
    steps: Annotated[int, typer.Option(min=2, max=1_000_000, help="Optimizer steps per round of --check.")] = 60,
    as_json: terminal.AsJson = False,
) -> None:
    """Predict epoch time, ingest, memory and storage for 1, 2, 4 … workers, and the number that is still worthwhile.

    The rate of one worker is measured on this machine unless --rate gives that of the planned machine.
    """
    from gen_ray.experiment import load

    experiment = load(config, overrides or [])
    if check:
        _check(experiment, sorted(set(check)), rounds=rounds, steps=steps, as_json=as_json)
        return
    workload, cost = _workload_and_cost(experiment, rate or [], machines.nodes * machines.gpus_per_node, rounds)
    if rows is not None:
        workload = replace(workload, rows=rows)
    forecasts = _forecasts(experiment, workload, cost, machines)
    _show(experiment, workload, cost, forecasts, bool(rate), as_json)


def _workload_and_cost(
    experiment: "Experiment", rates: list[str], most: int, rounds: int
) -> "tuple[RunWorkload, StepCost]":
    """Return the run's workload and the step cost of one worker, from --rate or measured here."""
    import torch

    from gen_ray.bench.planner import RunWorkload, StepCost, measure_step_seconds, rows_per_worker
    from gen_ray.cluster.data.preparation import prepare_data
    from gen_ray.datasets.shards import load_split
    from pipelines.instances import device

    prepared = prepare_data(experiment)
    family = experiment.model(prepared.spec)
    load = RunWorkload.of(experiment, prepared, family.build_net())
    if rates:
        return load, StepCost.fit(dict(_rate(word) for word in rates))
    threads = experiment.scaling.cpus_per_worker
    torch.set_num_threads(os.cpu_count() or 1 if threads == "auto" else threads)
    x = torch.from_numpy(load_split(prepared, "train")[0])
    sizes = rows_per_worker(load.batch, most)
    return load, StepCost.fit(measure_step_seconds(experiment, family, x, sizes, device=device(), rounds=rounds))


def _rate(word: str) -> tuple[float, float]:
    """Return rows and seconds per step from EXAMPLES_PER_SECOND@ROWS. Raise UserError."""
    from gen_ray.errors import UserError

    rate, _, rows = word.partition("@")
    try:
        point = float(rows), float(rows) / float(rate)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--rate {word}: write EXAMPLES_PER_SECOND@ROWS, e.g. 5000@128") from None
    if min(point) <= 0:
        raise UserError(f"--rate {word}: both numbers must be above 0")
    return point


def _forecasts(
    experiment: "Experiment", load: "RunWorkload", pace: "StepCost", machines: MachineOptions
) -> "list[Forecast]":
    from gen_ray.bench.planner import forecast, valid_worker_counts

    most = machines.nodes * machines.gpus_per_node
    site = _topology(machines)
    return [
        forecast(pace, load, site, n)
        for n in valid_worker_counts(load.batch, experiment.training.gradient_accumulation_steps, most)
    ]


def _topology(machines: MachineOptions) -> "Topology":
    from gen_ray.bench.planner import NetworkLink, Topology

    latency = machines.latency_us / 1e6
    return Topology(
        per_node=machines.gpus_per_node,
        within=NetworkLink(machines.node_gbps, latency),
        between=NetworkLink(machines.link_gbps, latency),
    )


def _show(
    experiment: "Experiment",
    load: "RunWorkload",
    pace: "StepCost",
    forecasts: "list[Forecast]",
    is_given: bool,
    as_json: bool,
) -> None:
    from gen_ray.bench.planner import worthwhile_workers

    best = worthwhile_workers(forecasts)
    if as_json:
        result = {"pace": asdict(pace), "load": asdict(load), "pays_until_workers": best}
        typer.echo(json.dumps({**result, "forecasts": [asdict(forecast) for forecast in forecasts]}, indent=1))
        return
    header = [
        "workers",
        "rows each",
        "compute, ms",
        "waits, ms",
        "examples/s",
        "efficiency",
        "epoch, s",
        "ingest, MB/s",
    ]
    gradients = f"{load.gradient_bytes / MB:.1f} MB of gradients"
    title = f"{experiment.name}: batches of {load.batch} from {load.rows:,} rows, {gradients}"
    terminal.show_table(title, header, [_line(forecast) for forecast in forecasts])
    origin = "given by --rate" if is_given else "measured on this machine; --rate sets that of another"
    typer.echo(f"one worker: {1e3 * pace.fixed:.2f} ms a step and {1e6 * pace.per_row:.1f} us a row, {origin}")
    typer.echo(f"up to {best} workers are worthwhile: twice as many would be less than 1.3 times as fast")
    typer.echo(
        f"each worker: {load.state_bytes / MB:,.0f} MB of weights, gradients, moments and averages, plus activations"
        f" and, unless streamed, {load.rows * load.row_bytes / MB:,.0f} MB of data"
    )
    typer.echo(
        f"storage: {load.kept_bytes / MB:,.0f} MB a run; a checkpoint is {load.checkpoint_bytes / MB:,.0f} MB, "
        f"every {experiment.training.checkpoint_every_seconds:g} s"
    )


def _line(forecast: "Forecast") -> list[str]:
    return [
        str(forecast.workers),
        f"{forecast.rows_a_worker:g}",
        f"{1e3 * forecast.compute_seconds:,.2f}",
        f"{1e3 * forecast.waiting_seconds:,.2f}",
        f"{forecast.images_per_second:,.0f}",
        f"{100 * forecast.efficiency:.0f} %",
        f"{forecast.epoch_seconds:,.2f}",
        f"{forecast.ingest_bytes_per_second / MB:,.2f}",
    ]


def _check(experiment: "Experiment", numbers: list[int], *, rounds: int, steps: int, as_json: bool) -> None:
    from statistics import median

    from gen_ray.bench.cluster.plan import check
    from gen_ray.errors import UserError

    for number in numbers:
        if experiment.data.batch_size % (number * experiment.training.gradient_accumulation_steps):
            raise UserError(f"--check {number}: data.batch_size={experiment.data.batch_size} is not divisible by it")
    checks = check(experiment, numbers, rounds=rounds, steps=steps)
    if as_json:
        result: list[dict[str, Any]] = [{**asdict(row), "ratio": row.ratio} for row in checks]
        typer.echo(json.dumps(result, indent=1))
        return
    header = ["workers", "planned, examples/s", "measured", "ratio"]
    lines = [
        [
            str(row.forecast.workers),
            f"{row.forecast.images_per_second:,.0f}",
            f"{median(row.measured):,.0f}",
            f"{row.ratio:.2f}",
        ]
        for row in checks
    ]
    terminal.show_table(f"{experiment.name}: workers of one thread on {os.cpu_count()} cores", header, lines)


if __name__ == "__main__":
    terminal.main(plan)
