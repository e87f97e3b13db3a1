"""gen-ray bench gpu: training, sampling and batching of GPU-size models, each against its baseline in one run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import terminal

if TYPE_CHECKING:
    import torch

    from gen_ray.bench.gpu.running import BenchOutcome

CONFIGS = Path(__file__).parents[1] / "configs" / "gpu"


def gpu(
    seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="Limit of the run time; measurements that do not fit are listed.")
    ] = 480,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    size: Annotated[str | None, typer.Option(help="full or small. Default: full on cuda, small on cpu.")] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Alternating rounds of each measurement, at most.")
    ] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every figure to this file.")] = None,
) -> None:
    """Measure training, sampling and batching on a GPU against bare PyTorch. Needs no data set, Ray or MLflow."""
    terminal.one_of("--device", device, ("cuda", "cpu"))
    terminal.one_of("--size", size or "full", ("full", "small"))
    target = _device(device)
    from gen_ray.bench.gpu import environment, report, running, suite, workloads

    chosen = size or ("full" if device == "cuda" else "small")
    asked = {"size": chosen, "limit_seconds": seconds, "rounds": rounds}
    described = environment.describe(target)
    tasks = suite.tasks(CONFIGS, workloads.SIZES[chosen])

    def save(outcome: "BenchOutcome") -> None:
        if json_file is not None:
            _write(json_file, report.as_json(outcome, described, asked))

    outcome = running.run(
        tasks,
        target,
        limit_seconds=seconds,
        rounds=rounds,
        announce=lambda line: typer.echo(line, err=True),
        save=save,
    )
    _show(outcome, described)
    if outcome.failed:
        from gen_ray.errors import RunError

        raise RunError(f"{len(outcome.failed)} of {len(tasks)} measurements failed; see the report above")


def _device(name: str) -> "torch.device":
    """Return the device. Raise UserError where torch sees no GPU."""
    import torch

    from gen_ray.errors import UserError

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here (--device cpu runs small sizes on the CPU)")
    return torch.device(name)


def _write(file: Path, figures: dict[str, Any]) -> None:
    """Replace the file by the figures so far."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def _show(outcome: "BenchOutcome", described: dict[str, Any]) -> None:
    from gen_ray.bench.gpu import report

    settings = ", ".join(f"{name} {value}" for name, value in described["settings"].items())
    plain = [f"{name} {value}" for name, value in described.items() if name != "settings"]
    typer.echo(f"{', '.join(plain)}; {settings}")
    for table in report.tables(outcome):
        terminal.show_table(table.title, table.header, table.lines)
    for line in report.remarks(outcome):
        typer.echo(line)
    typer.echo(
        f"{outcome.seconds:.0f} s. A speed is the median over the rounds of baseline time / own time, with the lowest "
        "and the highest round; 1 is as fast as the baseline."
    )
