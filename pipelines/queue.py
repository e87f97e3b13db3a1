"""gen-ray queue: who has how much of a shared cluster, and who waits."""

from collections.abc import Mapping

import typer

from pipelines import terminal


def queue() -> None:
    """Show the sweeps and trainings on the cluster that RAY_ADDRESS names, and the cause of each wait."""
    from gen_ray.cluster.jobs.queue import members, reserved
    from gen_ray.cluster.nodes.connect import connected
    from gen_ray.experiment import Scaling

    with connected(Scaling()):
        found, others = members(), reserved()
    if others:
        typer.echo(f"reserved by other applications: {_amounts(others)}")
    if not found:
        typer.echo("nothing runs, nothing waits")
        return
    lines = [
        [
            wish.name,
            _amounts(wish.needs),
            f"{wish.priority:g}",
            str(wish.running),
            waits_for,
            f"{seconds / 60:.1f}",
        ]
        for wish, waits_for, seconds in found
    ]
    terminal.show_table(
        "queue", ["sweep or run", "each", "priority", "running", "waits for", "minutes"], lines, prose=("waits for",)
    )


def _amounts(resources: Mapping[str, float]) -> str:
    return " + ".join(f"{amount:g} {kind}" for kind, amount in resources.items())


if __name__ == "__main__":
    terminal.main(queue)
