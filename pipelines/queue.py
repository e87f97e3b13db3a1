"""gen-ray queue: running and waiting work on a shared cluster."""

from collections.abc import Mapping

import typer

from pipelines import terminal


def queue() -> None:
    """Show sweeps and trainings on the cluster that RAY_ADDRESS names, their resources, and what they wait for."""
    from gen_ray.cluster.jobs.queue import members, reserved
    from gen_ray.cluster.nodes.connect import connected
    from gen_ray.experiment import Scaling

    with connected(Scaling()):
        states, others = members(), reserved()
    if others:
        typer.echo(f"reserved by other applications: {_amounts(others)}")
    if not states:
        typer.echo("nothing runs or waits")
        return
    lines = [
        [
            member.name,
            _amounts(member.needs),
            f"{member.priority:g}",
            str(member.running),
            waits_for,
            f"{seconds / 60:.1f}",
        ]
        for member, waits_for, seconds in states
    ]
    terminal.show_table(
        "queue", ["sweep or run", "each", "priority", "running", "waits for", "minutes"], lines, prose=("waits for",)
    )


def _amounts(resources: Mapping[str, float]) -> str:
    return " + ".join(f"{amount:g} {kind}" for kind, amount in resources.items())


if __name__ == "__main__":
    terminal.main(queue)
