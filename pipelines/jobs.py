"""gen-ray jobs list|logs|stop: what runs and ran on a cluster."""

from datetime import datetime
from typing import Annotated

import typer

from pipelines import terminal
from pipelines.submit import LOCAL, Address, followed

app = terminal.new_app()
app.callback()(lambda: None)
Id = Annotated[str, typer.Argument(help="The job.")]


@app.command("list")
def list_(address: Address = LOCAL) -> None:
    """Show the jobs, the newest first."""
    from gen_ray.cluster.jobs.jobs import Jobs

    lines = [
        [
            job.id,
            job.state,
            datetime.fromtimestamp(job.began).strftime("%Y-%m-%d %H:%M:%S") if job.began else "",
            f"{job.seconds / 60:.1f}" if job.seconds else "",
            job.command.removeprefix("python -m pipelines."),
            job.message,
        ]
        for job in Jobs(address).all()
    ]
    if not lines:
        typer.echo(f"no jobs at {address}")
        return
    header = ["job", "state", "began", "minutes", "command", ""]
    terminal.show_table("jobs", header, lines, prose=("command", ""), dispensable=("minutes", "began"))


@app.command()
def logs(
    id: Id,
    address: Address = LOCAL,
    follow: Annotated[bool, typer.Option("--follow", help="Until it ends; then exit as it did.")] = False,
) -> None:
    """Print what a job has printed."""
    from gen_ray.cluster.jobs.jobs import Jobs

    jobs = Jobs(address)
    if follow:
        raise typer.Exit(followed(jobs, id))
    typer.echo(jobs.log(id), nl=False)


@app.command()
def stop(id: Id, address: Address = LOCAL) -> None:
    """Have a job save a checkpoint, close its MLflow run as KILLED, and end; train --resume goes on from there."""
    from gen_ray.cluster.jobs.jobs import Jobs

    typer.echo(f"{id}: {'is told to end' if Jobs(address).stop(id) else 'had ended'}")


if __name__ == "__main__":
    terminal.main(app)
