"""gen-ray bench: figures as ratios against a baseline that alternates with them in one run."""

import json
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import instances, terminal

if TYPE_CHECKING:
    from gen_ray.engine.bench import Walks

app = terminal.new_app()
app.callback()(lambda: None)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each, after one to warm up.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a round.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Training through Ray against a bare PyTorch loop of the same net over a tensor in memory (images per second)."""
    from gen_ray.cluster.bench import train_rates
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
def sample(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file; its net is measured untrained.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    sampler: Annotated[list[str] | None, typer.Option(help="Again and again; the default one if left out.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Again and again; 1 and 16 if left out.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every sampler; its default if left out.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each, after one to warm up.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the CPU.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure walks along a sampler's table against their network evaluations alone: at 1 all else is free."""
    import torch

    from gen_ray.cluster.train import prepare_data
    from gen_ray.engine.bench import walks
    from gen_ray.engine.step import autocast
    from gen_ray.experiment import load

    experiment = load(config, overrides or [])
    family, device = experiment.model(prepare_data(experiment).spec), instances.device()
    torch.set_num_threads(threads)
    net, found = family.build_net().to(device).eval().requires_grad_(False), []
    for name, size in product(sampler or [next(iter(family.samplers()))], batch or [1, 16]):
        chain = family.chain(name, steps)
        with autocast(experiment.training.precision, device):
            timed = walks(net, chain, batch=size, rounds=rounds, device=device)
        found.append({"sampler": name, "batch": size, "nfe": chain.nfe, **_figures(timed, chain.nfe)})
    if as_json:
        typer.echo(json.dumps({"config": str(config), "rounds": rounds, "threads": threads, "walks": found}, indent=1))
        return
    header = ["sampler", "batch", "nfe", "ms an evaluation", "ratio", "lowest", "highest"]
    lines = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()] for row in found]
    terminal.show_table(f"{experiment.name}: {rounds} rounds, {threads} threads", header, lines)


def _figures(timed: "Walks", nfe: int) -> dict[str, float]:
    return {
        "evaluation_milliseconds": 1e3 * median(timed.bare) / nfe,
        "ratio": median(timed.ratios),
        "ratio_lowest": min(timed.ratios),
        "ratio_highest": max(timed.ratios),
    }


if __name__ == "__main__":
    terminal.main(app)
