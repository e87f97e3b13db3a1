"""gen-ray jobs list|logs|stop: the jobs of a Ray cluster."""

from datetime import datetime
from typing import Annotated

import typer

from pipelines import terminal
from pipelines.submit import LOCAL, Address, followed

app = terminal.new_group()
Id = Annotated[str, typer.Argument(help="The job's id.")]


@app.command("list")
def list_(address: Address = LOCAL) -> None:
    """List the jobs, newest first."""
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
    follow: Annotated[bool, typer.Option("--follow", help="Print until the job ends; exit with its code.")] = False,
) -> None:
    """Print the output of a job."""
    from gen_ray.cluster.jobs.jobs import Jobs

    jobs = Jobs(address)
    if follow:
        raise typer.Exit(followed(jobs, id))
    typer.echo(jobs.log(id), nl=False)


@app.command()
def stop(id: Id, address: Address = LOCAL) -> None:
    """Stop a job: it saves a checkpoint and closes its MLflow run as KILLED; train --resume continues it."""
    from gen_ray.cluster.jobs.jobs import Jobs

    typer.echo(f"{id}: {'stopping' if Jobs(address).stop(id) else 'had already ended'}")


if __name__ == "__main__":
    terminal.main(app)
