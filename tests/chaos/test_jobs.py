"""Occurrences as jobs of a real Ray cluster: identified by their ids and submitted only once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from gen_ray.cluster.jobs.jobs import Jobs
from gen_ray.errors import RunError
from gen_ray.recurring.launcher import OccurrenceState, wait
from gen_ray.recurring.reconciler import Reconciler
from gen_ray.recurring.store import ScheduleStore
from tests.chaos.head_node import running_head
from tests.recurring.simulation import nightly

pytestmark = [pytest.mark.timeout(480, method="thread")]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Return the dashboard address of a head without token authentication, because this process lacks a token."""
    with running_head(insecure=True) as found:
        yield found.dashboard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a working directory whose short sweep program shadows the real one."""
    package = tmp_path / "work" / "pipelines"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sweep.py").write_text(
        "import sys, time\nprint(sys.argv[1:])\ntime.sleep(3)\nsys.exit('--fail' in sys.argv)\n"
    )
    return package.parent


def test_an_occurrence_is_one_job_and_its_end_is_known(
    head: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # another cluster, for local runs
    store, jobs = ScheduleStore(tmp_path / "root"), Jobs(head)
    now = datetime.now(UTC)
    store.add(nightly(folder, cron="* * * * *", address=head, added=now - timedelta(minutes=2)))
    for _ in range(2):  # the second daemon finds the job that the first one did not record
        (store.folder / "nightly.state.json").unlink(missing_ok=True)
        reconciler = Reconciler(store, lambda schedule: Jobs(str(schedule.address)), lambda: now)
        assert [found.state for found in reconciler.reconcile("nightly")] == ["running"]
    schedule = store.load("nightly")
    launched = store.load_state(schedule).launched
    assert launched is not None
    occurrence = schedule.occurrence(launched.at)
    jobs.launch(occurrence, ["-m", "pipelines.sweep", "--fail"], folder)  # two daemons at the same time: only one job
    assert wait(jobs, occurrence) == OccurrenceState("done")
    assert "--tag" in requests.get(f"{head}/api/jobs/{occurrence}/logs", timeout=10).json()["logs"]
    ids = [job["submission_id"] for job in requests.get(f"{head}/api/jobs/", timeout=10).json()]
    assert ids.count(occurrence) == 1
    assert [found.state for found in reconciler.reconcile("nightly")] == ["done"]


def test_the_failure_of_a_job_is_reported(head: str, folder: Path) -> None:
    jobs = Jobs(head)
    with pytest.raises(RunError, match="nowhere"):
        jobs.launch("nightly-1", ["-m", "pipelines.sweep"], folder / "nowhere")
    assert jobs.state("nightly-1") is None
    jobs.launch("nightly-1", ["-m", "pipelines.sweep", "--fail"], folder)
    state = wait(jobs, "nightly-1")
    assert state is not None and (state.word, state.code) == ("failed", 1) and state.note.startswith("failed, ")


def test_a_cluster_that_does_not_answer_is_reported_in_one_line() -> None:
    jobs = Jobs("http://127.0.0.1:9")
    for ask in (lambda: jobs.state("a"), lambda: jobs.launch("a", [], Path())):
        with pytest.raises(RunError, match=r"Ray jobs at http://127\.0\.0\.1:9: no cluster") as excinfo:
            ask()
        assert "\n" not in str(excinfo.value)
