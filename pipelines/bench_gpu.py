"""gen-ray bench gpu: compare training, sampling and batching of GPU-size models with baselines in one run."""

import json
import os
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
        float, typer.Option(min=0, max=86_400, help="Time limit in seconds; measurements that do not fit are listed.")
    ] = 480,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    size: Annotated[str | None, typer.Option(help="full or small. Default: full on cuda, small on cpu.")] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Maximum number of alternating rounds per measurement.")
    ] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all results to this file.")] = None,
) -> None:
    """Measure training, sampling and batching on a GPU against bare PyTorch. Needs no data set, Ray or MLflow."""
    terminal.one_of("--device", device, ("cuda", "cpu"))
    terminal.one_of("--size", size or "full", ("full", "small"))
    if json_file is not None:
        _check(json_file)
    target = _device(device)
    from gen_ray.bench.gpu import environment, report, running, suite, workloads
    from gen_ray.errors import EndedError, RunError

    chosen = size or ("full" if device == "cuda" else "small")
    arguments = {"size": chosen, "limit_seconds": seconds, "rounds": rounds}
    described = environment.describe(target)
    tasks, outcome = suite.tasks(CONFIGS, workloads.SIZES[chosen]), running.BenchOutcome()

    def save(outcome: "BenchOutcome") -> None:
        if json_file is not None:
            _write(json_file, report.as_json(outcome, described, arguments))

    try:
        running.run(tasks, target, outcome, limit_seconds=seconds, rounds=rounds, announce=_announce, save=save)
    except (KeyboardInterrupt, EndedError):
        _show(outcome, described)
        raise
    _show(outcome, described)
    if outcome.failed:
        raise RunError(f"{len(outcome.failed)} of {len(tasks)} measurements failed; see the report above")


def _announce(line: str) -> None:
    typer.echo(line, err=True)


def _device(name: str) -> "torch.device":
    """Return the device. Raise UserError if it is a GPU and torch sees none."""
    import torch

    from gen_ray.errors import UserError

    if name == "cuda" and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f", CUDA_VISIBLE_DEVICES={visible!r}"
        raise UserError(
            f"--device cuda: torch sees no GPU here (torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"
            f"{hidden}); --device cpu runs small sizes on the CPU"
        )
    return torch.device(name)


def _check(file: Path) -> None:
    """Raise UserError if the path cannot be that of a file."""
    from gen_ray.errors import UserError

    if not file.name or file.is_dir():
        raise UserError(f"--json {str(file)!r}: is a folder; name a file")
    if not file.parent.is_dir():
        raise UserError(
            f"--json {str(file)!r}: the folder {str(file.parent)!r} does not exist; make it, or name another file"
        )


def _write(file: Path, figures: dict[str, Any]) -> None:
    """Replace the file by the results so far; write to a device or pipe, such as /dev/stdout, in place."""
    from gen_ray.storage.replacement import write_output

    write_output(file, (json.dumps(figures, indent=1) + "\n").encode("utf-8"))


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
        "and the highest round; 1 is as fast as the baseline. FLOP utilisation is the share of the measured rate of "
        "large matrix products."
    )
