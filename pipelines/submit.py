"""gen-ray submit VERB …: the same verb as a job of a Ray cluster."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import terminal

if TYPE_CHECKING:
    from gen_ray.cluster.jobs.jobs import Jobs

VERBS = ("compare", "demo", "doctor", "ema", "evaluate", "prepare", "promote", "queue", "serve", "sweep", "train")
"""What works on storage.root alone: files written beside it would go with the job."""
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
LOCAL = "http://127.0.0.1:8265"

Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster's dashboard, e.g. by ray dashboard.")
]


def submit(
    words: Annotated[list[str], typer.Argument(metavar="VERB …", help="A verb and what it is given, as ever.")],
    address: Address = LOCAL,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id, and leave it to itself.")] = False,
    id: Annotated[str | None, typer.Option(help="Of the job; the verb and the time if left out.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the job, or KEY with its value here; again and again.")
    ] = None,
    working_dir: Annotated[Path, typer.Option(help="The folder that the job gets a copy of.")] = Path(),
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A file to upload although it looks like a secret; may be repeated."),
    ] = None,
    limit_mb: Annotated[
        float, typer.Option(min=0, max=1_000_000, help="Megabytes of that folder that may be uploaded.")
    ] = 100,
) -> None:
    """Run a verb on a cluster: the same as ray job submit -- python -m pipelines.VERB, and exit as it does.

    Ctrl-C leaves the job running. The folder is uploaded without what .gitignore and .rayignore name; files that look
    like secrets, and links that lead out of the folder, are refused. Results go below storage.root, which is a folder
    that all machines share, or s3://…: GEN_RAY_STORAGE there says which.
    """
    from gen_ray.cluster.jobs import package
    from gen_ray.cluster.jobs.jobs import Jobs

    verb, *rest = words
    _check(verb, working_dir)
    job = id or f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    terminal.check_name("--id", job)
    variables = dict(_variable(word) for word in env or [])
    files = package.contents(working_dir)
    package.check(working_dir, files, limit_mb)
    package.check_words(working_dir, files, rest)
    jobs = Jobs(address)
    jobs.submit(job, ["-m", f"pipelines.{verb}", *rest], working_dir.absolute(), variables, include or [])
    if no_wait:
        typer.echo(job)
        return
    typer.echo(f"job {job} at {address}", err=True)
    raise typer.Exit(followed(jobs, job))


def _check(verb: str, folder: Path) -> None:
    """Raise UserError for a verb that cannot run as a job, and where the folder is missing."""
    from gen_ray.errors import UserError, nearest

    if verb not in VERBS:
        raise UserError(
            f"{verb}: cannot run as a job: only files below storage.root outlive it; {nearest(verb, VERBS)}"
        )
    if not folder.is_dir():
        raise UserError(f"--working-dir {folder}: is not a folder")


def followed(jobs: "Jobs", job: str) -> int:
    """Print what a job prints until it ends, and return its exit code; Ctrl-C leaves it running."""
    try:
        return jobs.follow(job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"\n{job} goes on; gen-ray jobs logs {job} --follow, or gen-ray jobs stop {job}", err=True)
        raise


def _variable(word: str) -> tuple[str, str]:
    """Return an environment variable's name and value. Raise UserError where it has none."""
    from gen_ray.errors import UserError

    key, equals, value = word.partition("=")
    if not equals and key not in os.environ:
        raise UserError(f"--env {key}: is not set in this shell; write --env {key}=VALUE")
    if key.startswith("RAY_AUTH_"):
        raise UserError(f"--env {key}: a job has the cluster's own; in its environment everybody could read it")
    return key, value if equals else os.environ[key]
