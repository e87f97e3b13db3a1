"""gen-ray submit VERB …: run a verb as a job of a Ray cluster."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import terminal

if TYPE_CHECKING:
    from gen_ray.cluster.jobs.jobs import Jobs

VERBS = ("compare", "demo", "doctor", "ema", "evaluate", "prepare", "promote", "queue", "serve", "sweep", "train")
"""Verbs that write below storage.root only: other files would be lost with the job."""
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
LOCAL = "http://127.0.0.1:8265"

Address = Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Address of the cluster's dashboard.")]


def submit(
    words: Annotated[list[str], typer.Argument(metavar="VERB …", help="A verb with its arguments and options.")],
    address: Address = LOCAL,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id and return.")] = False,
    id: Annotated[str | None, typer.Option(help="Id of the job. Default: made from verb and time.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="Variable for the job: KEY=VALUE, or KEY with its value here. May be repeated."),
    ] = None,
    working_dir: Annotated[Path, typer.Option(help="The folder to upload; the job runs in a copy of it.")] = Path(),
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A file to upload although it looks like a secret; may be repeated."),
    ] = None,
    limit_mb: Annotated[
        float, typer.Option(min=0, max=1_000_000, help="Maximum size of the upload, in megabytes.")
    ] = 100,
) -> None:
    """Run a verb as a job, as ray job submit -- python -m pipelines.VERB does, and exit with its exit code.

    Ctrl-C leaves the job running. The folder is uploaded without files that .gitignore and .rayignore name; files that
    look like secrets, and links that lead out of the folder, are refused. Results go below storage.root, a folder that
    all machines share or s3://…, set by GEN_RAY_STORAGE on the cluster.
    """
    from gen_ray.cluster.jobs.jobs import Jobs

    verb, *arguments = words
    _check(verb, working_dir)
    job = id or f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    terminal.check_name("--id", job)
    variables = dict(_variable(word) for word in env or [])
    _check_upload(working_dir, arguments, limit_mb)
    jobs = Jobs(address)
    jobs.submit(job, ["-m", f"pipelines.{verb}", *arguments], working_dir.absolute(), variables, include or [])
    if no_wait:
        typer.echo(job)
        return
    typer.echo(f"job {job} at {address}", err=True)
    raise typer.Exit(followed(jobs, job))


def _check(verb: str, folder: Path) -> None:
    """Raise UserError for a verb that cannot run as a job and for a missing folder."""
    from gen_ray.errors import UserError, nearest

    if verb not in VERBS:
        raise UserError(
            f"{verb}: cannot run as a job, because only files below storage.root outlive it; {nearest(verb, VERBS)}"
        )
    if not folder.is_dir():
        raise UserError(f"--working-dir {folder}: is not a folder")


def _check_upload(folder: Path, arguments: list[str], limit_mb: float) -> None:
    """Raise UserError for a folder that is too large or lacks files that the arguments name."""
    from gen_ray.cluster.jobs import package

    files = package.contents(folder)
    package.check(folder, files, limit_mb)
    package.check_words(folder, files, arguments)


def followed(jobs: "Jobs", job: str) -> int:
    """Print the output of a job until it ends and return its exit code; Ctrl-C leaves it running."""
    try:
        return jobs.follow(job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"\n{job} continues; gen-ray jobs logs {job} --follow, or gen-ray jobs stop {job}", err=True)
        raise


def _variable(word: str) -> tuple[str, str]:
    """Return the name and value of an environment variable. Raise UserError if it has no value."""
    from gen_ray.errors import UserError

    key, equals, value = word.partition("=")
    if not equals and key not in os.environ:
        raise UserError(f"--env {key}: is not set in this shell; write --env {key}=VALUE")
    if key.startswith("RAY_AUTH_"):
        raise UserError(
            f"--env {key}: a job has the cluster's token; every user of the cluster can read a job's variables"
        )
    return key, value if equals else os.environ[key]
