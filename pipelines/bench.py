"""gen-ray bench: figures as ratios against a baseline that alternates with them in one run."""

import json
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from pipelines import terminal

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


if __name__ == "__main__":
    terminal.main(app)
