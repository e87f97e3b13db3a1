"""The measurement of gen-ray bench serve under constant load."""

import json
from typing import TYPE_CHECKING

import typer

from pipelines import terminal

if TYPE_CHECKING:
    from gen_ray.bench.cluster.serving.load import RequestKind
    from gen_ray.cluster.serving.args import ServingApplication


def show(
    app: "ServingApplication", kinds: "list[RequestKind]", port: int, seconds: float, share: float, as_json: bool
) -> None:
    """Measure a constant load and print the results."""
    from gen_ray.bench.cluster.serving.constant import constant

    figures = constant(app, kinds, port, seconds=seconds, share=share).figures()
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
