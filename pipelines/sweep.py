"""gen-ray sweep CONFIG [key=value …]: many runs of one experiment, to find the best of them."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import terminal


def sweep(
    plan: Annotated[Path, typer.Argument(metavar="CONFIG", help="The sweep's YAML file, e.g. of configs/sweeps.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value of the sweep (trials=8) or of all trials (training.epochs=3)")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved sweep and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest unfinished sweep.")] = False,
) -> None:
    """Try the points of a space on Ray Tune; MLflow has the sweep as one run and each trial below it."""
    from gen_ray.errors import RunError
    from gen_ray.sweeps import config

    found = config.load(plan, overrides or [])
    if dry_run:
        typer.echo(config.dump(found), nl=False)
        return
    from gen_ray.cluster.sweep import sweep as run

    with terminal.Progress(found.sweep.name) as watch:
        done = run(found, resume=resume, watch=watch)
    terminal.show_table(done.sweep_id, done.header, done.lines, prose=("state",))
    if done.best:
        typer.echo(f"best: {done.best}")
    failed = [result for result in done.results if result.state == "failed"]
    if failed:
        raise RunError(f"{done.sweep_id}: {len(failed)} of {len(done.results)} trials failed")


if __name__ == "__main__":
    terminal.main(sweep)
