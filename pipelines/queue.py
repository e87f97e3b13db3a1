"""gen-ray queue: who has how much of a shared cluster, and who waits."""

import typer

from pipelines import terminal


def queue() -> None:
    """Show the sweeps and trainings on the cluster that RAY_ADDRESS names, and which of them wait for room."""
    from gen_ray.cluster.connect import connected
    from gen_ray.cluster.queue import members
    from gen_ray.experiment import Scaling

    with connected(Scaling()):
        found = members()
    if not found:
        typer.echo("nothing runs, nothing waits")
        return
    lines = [
        [
            wish.name,
            " + ".join(f"{amount:g} {kind}" for kind, amount in wish.needs.items()),
            f"{wish.priority:g}",
            str(wish.running),
            "waits" if waits else "",
            f"{seconds / 60:.1f}",
        ]
        for wish, waits, seconds in found
    ]
    terminal.show_table("queue", ["sweep or run", "each", "priority", "running", "", "minutes"], lines)


if __name__ == "__main__":
    terminal.main(queue)
