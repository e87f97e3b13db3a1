"""Commands as Ray jobs: submitted under an id that is taken only once, and asked after by it."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from gen_ray.errors import RunError
from gen_ray.schedules.launcher import State

T = TypeVar("T")
OVERRULING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's client prefers these to the address it is given."""


class Jobs:
    """A cluster's jobs, by the address of its dashboard. They go on whatever becomes of this process."""

    def __init__(self, address: str) -> None:
        """Connect to nothing yet: the cluster may come and go."""
        self.address = address

    def launch(self, occurrence: str, words: Sequence[str], folder: Path) -> None:
        """Submit ``python WORDS`` with a copy of folder as its working directory. Raise RunError."""
        try:
            self._ask(
                lambda client: client.submit_job(
                    entrypoint=shlex.join(["python", *words]),
                    submission_id=occurrence,
                    runtime_env={"working_dir": str(folder)},
                )
            )
        except RunError:
            if self.state(occurrence) is None:  # else it was submitted before
                raise

    def state(self, occurrence: str) -> State | None:
        """Return the state of a job, None where there is none of that id."""
        found = self._ask(lambda client: _found(client, occurrence))
        return _state(found) if found else None

    def close(self) -> None:
        """Leave the jobs alone."""

    def _ask(self, question: Callable[[JobSubmissionClient], T]) -> T:
        try:
            with _without(OVERRULING):
                client = JobSubmissionClient(self.address)
            return question(client)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            line = (str(error).strip().splitlines() or [""])[0]
            raise RunError(f"Ray jobs at {self.address}: {line}", reason="cluster") from None


def _found(client: JobSubmissionClient, job: str) -> JobDetails | None:
    try:
        return client.get_job_info(job)
    except RuntimeError as error:  # Ray's only one; to list all jobs instead would take the longer the more there were
        if "status code 404" in str(error):
            return None
        raise


def _state(job: JobDetails) -> State:
    if not JobStatus(job.status).is_terminal():
        return State("running")
    if job.status == JobStatus.SUCCEEDED:
        return State("done")
    line = (str(job.message).strip().splitlines() or [""])[0]
    return State("failed", f"{str(job.status).lower()}, {line}", job.driver_exit_code or 1)


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
