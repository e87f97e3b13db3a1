"""Commands as Ray jobs: submission under a unique id, and queries by that id."""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from gen_ray.cluster.jobs import package, secret_files
from gen_ray.cluster.nodes import environment
from gen_ray.errors import RunError, UserError, argument, first_line, nearest
from gen_ray.recurring.launcher import UNAVAILABLE, OccurrenceState, later

T = TypeVar("T")
OVERRULING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables that override the address given to Ray's client."""
STOPPED_CODE = 143
NO_AGENT, AGENT_SECONDS = "No available agent", 60.0
"""Ray's message until the agent of a new cluster is up, and the maximum wait for it in seconds."""
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)
"""Ray's loggers that report every file excluded from an upload."""
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """An entry of the list of jobs; the field began is in seconds since 1970."""

    id: str
    state: str
    command: str
    began: float
    seconds: float
    message: str


class Jobs:
    """The jobs of a cluster, by the address of its dashboard. Jobs continue when this process ends."""

    def __init__(self, address: str) -> None:
        """Store the address. Each call opens a new connection, because the cluster may come and go."""
        self.address = address

    def submit(
        self,
        job: str,
        words: Sequence[str],
        folder: Path,
        variables: Mapping[str, str] = NOTHING,
        included: Collection[str] = (),
    ) -> None:
        """Submit ``python WORDS`` with a copy of folder as its working directory.

        Raise RunError if Ray refuses, UserError if the copy would contain a secret file that is not in included.
        """
        secret_files.check(folder, package.contents(folder), included)
        env = {"working_dir": str(folder), "env_vars": {**environment.STOP, **variables}}
        entrypoint = shlex.join(["python", *words])
        until = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                self._ask(lambda client: client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=env))
                return
            except RunError as error:  # the cluster has just started: nothing was submitted
                if NO_AGENT not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(1)

    def launch(self, occurrence: str, words: Sequence[str], folder: Path) -> None:
        """Submit a job unless its id exists. Raise RunError."""
        try:
            self.submit(occurrence, words, folder)
        except UserError as error:  # the folder has a new secret file: the daemon must continue
            raise RunError(str(error), reason="secret") from None
        except RunError:
            if self.state(occurrence) is None:  # otherwise it was submitted before
                raise

    def state(self, occurrence: str) -> OccurrenceState | None:
        """Return the state of a job, or None if the id is unknown."""
        details = self._ask(lambda client: _job_details(client, occurrence))
        return _state(details) if details else None

    def all(self) -> list[RayJob]:
        """Return the jobs, the newest first."""
        jobs = [_job(details) for details in self._ask(lambda client: client.list_jobs()) if details.submission_id]
        return sorted(jobs, key=lambda job: job.began, reverse=True)

    def log(self, job: str) -> str:
        """Return a job's output so far. Raise UserError if the id is unknown."""
        self._details(job)
        text: str = self._ask(lambda client: client.get_job_logs(job))
        return text

    def follow(self, job: str, tell: Callable[[str], None]) -> int:
        """Pass a job's output to tell, line by line, until it ends; return its exit code. Raise UserError, RunError."""
        self._details(job)
        self._ask(lambda client: asyncio.run(_tell(client.tail_job_logs(job), tell)))
        return self.code(job)

    def code(self, job: str) -> int:
        """Return the exit code of a job that has ended; 143, as after SIGTERM, if it was stopped."""
        details = self._details(job)
        if details.status == JobStatus.SUCCEEDED:
            return 0
        if details.status == JobStatus.STOPPED:
            return STOPPED_CODE
        code = details.driver_exit_code or 1
        return code if code > 0 else 128 - code

    def stop(self, job: str) -> bool:
        """Stop a job gracefully; return whether it was still running. Raise UserError if the id is unknown."""
        ended = JobStatus(self._details(job).status).is_terminal()
        if not ended:
            self._ask(lambda client: client.stop_job(job))
        return not ended

    def free_ids(self, schedule: str, after: str) -> None:
        """Delete ended jobs whose ids are due later than after; they ran while the clock was ahead."""
        ended = {job.id for job in self.all() if job.state in ("succeeded", "failed", "stopped")}
        for job in later(ended, schedule, after):
            self._ask(lambda client, job=job: client.delete_job(job))  # type: ignore[misc]

    def close(self) -> None:
        """Do nothing: the jobs continue."""

    def _details(self, job: str) -> JobDetails:
        details = self._ask(lambda client: _job_details(client, job))
        if details is None:
            raise UserError(f"{job}: no such job at {self.address}; {nearest(job, [other.id for other in self.all()])}")
        return details

    def _ask(self, question: Callable[[JobSubmissionClient], T]) -> T:
        try:
            with _without(OVERRULING):
                client = JobSubmissionClient(self.address)
            for name in TALKATIVE:
                logging.getLogger(name).setLevel(logging.ERROR)
            return question(client)
        except (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError) as error:
            raise RunError(f"Ray jobs at {self.address}: {_reason(error)}", reason=UNAVAILABLE) from None


def _reason(error: Exception) -> str:
    """Return the reason of a failed query, with a remedy if the token is the cause."""
    line = first_line(error)
    if line.startswith("Authentication required"):
        return "the cluster asks for a token: copy the head's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN_PATH"
    if line.startswith("Authentication failed"):
        return "the cluster refuses this token (~/.ray/auth_token or RAY_AUTH_TOKEN_PATH): it is not this cluster's"
    if line.startswith("Failed to connect to Ray"):
        remedy = f"start a cluster (gen-ray start head), or name one with {argument('address')}"
        return f"no cluster's dashboard answers there; {remedy}"
    return line


async def _tell(lines: AsyncIterator[str], tell: Callable[[str], None]) -> None:
    async for line in lines:
        tell(line)


def _job_details(client: JobSubmissionClient, job: str) -> JobDetails | None:
    try:
        return client.get_job_info(job)
    except RuntimeError as error:  # Ray's only error type here; listing all jobs instead would be slow
        if "status code 404" in str(error):
            return None
        raise


def _state(job: JobDetails) -> OccurrenceState:
    if not JobStatus(job.status).is_terminal():
        return OccurrenceState("running")
    if job.status == JobStatus.SUCCEEDED:
        return OccurrenceState("done")
    return OccurrenceState("failed", f"{str(job.status).lower()}, {_line(job)}", job.driver_exit_code or 1)


def _job(details: JobDetails) -> RayJob:
    began, ended = (details.start_time or 0) / 1000, (details.end_time or 0) / 1000
    return RayJob(
        id=str(details.submission_id),
        state=str(details.status).lower(),
        command=details.entrypoint,
        began=began,
        seconds=max(0.0, ended - began) if ended else 0.0,
        message="" if details.status == JobStatus.SUCCEEDED else _line(details),
    )


def _line(details: JobDetails) -> str:
    """Return the command's own error message, or otherwise the first line of Ray's message."""
    lines = str(details.message).strip().splitlines() or [""]
    return next((line for line in reversed(lines) if line.startswith("error: ")), lines[0])


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    removed = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)
