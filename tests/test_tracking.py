"""Tracking in MLflow: runs are found again, never duplicated, and closed with their true status."""

import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from gen_ray.errors import RunError, UserError
from gen_ray.tracking import database
from gen_ray.tracking.runs import (
    PROCESS,
    REFUSED,
    RUN_ID,
    RunRow,
    TrackedRun,
    connect,
    experiment_id,
    experiments,
    is_gone,
    rows,
    this_process,
    translate_errors,
)
from gen_ray.tracking.store import Store


@pytest.fixture
def store(storage: Path, request: pytest.FixtureRequest) -> Store:
    """Return a separate experiment in the database of the session, because creating a database takes seconds."""
    return Store.of(None, request.node.name[:60], storage)


def open_run(store: Store, run_id: str = "a-1", **params: object) -> TrackedRun:
    return TrackedRun(store, run_id, name="a", params=params, tags={"colour": "red"})


def only(store: Store) -> RunRow:
    [row] = rows(store)
    return row


def test_a_reopened_run_is_the_same_run_with_its_first_params(store: Store) -> None:
    first = open_run(store, epochs=2)
    first.log({"train/loss_nats": 3.0}, 1)
    first.close("KILLED")
    again = open_run(store, epochs=2, added="x" * 7000)
    assert again.id == first.id and only(store).status == "RUNNING"
    again.log({"train/loss_nats": 2.0}, 2)
    again.close("FINISHED")
    row = only(store)
    assert (row.run_id, row.name, row.status) == ("a-1", "a", "FINISHED")
    assert row.params == {"epochs": "2", "added": "x" * 6000} and row.metrics == {"train/loss_nats": 2.0}
    assert row.tags["colour"] == "red" and row.tags[PROCESS] == this_process()
    history = again.client.get_metric_history(again.id, "train/loss_nats")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0)]


def test_an_epoch_repeated_after_a_crash_overwrites_nothing_and_the_newest_value_is_used(store: Store) -> None:
    run = open_run(store)
    for value in (3.0, 2.5):
        run.log({"m": value}, 1)
    assert only(store).metrics["m"] in (2.5, 3.0)
    assert len(run.client.get_metric_history(run.id, "m")) == 2


def test_a_reopened_run_has_no_reason_of_failure(store: Store) -> None:
    run = open_run(store)
    run.set_tags({"reason": "non_finite", "error": "loss is nan", "kept": "yes"})
    run.close("FAILED")
    open_run(store).close("FINISHED")
    assert not only(store).tags.keys() & {"reason", "error"} and only(store).tags["kept"] == "yes"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_with_the_given_status(store: Store, status: str) -> None:
    run = open_run(store)
    run.set_tags({"reason": "non_finite"})
    run.close(status)
    assert only(store).status == status and only(store).tags["reason"] == "non_finite"


def test_the_next_start_closes_runs_whose_process_is_gone_and_no_others(store: Store) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "from gen_ray.tracking.runs import this_process; print(this_process())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    host, pid, began = this_process().rsplit(":", 2)
    owners = {
        "dead": dead, "living": this_process(), "reused": f"{host}:{pid}:{float(began) - 1000:.0f}",
        "elsewhere": "another-host:1:1", "adjusted": f"{host}:{pid}:{float(began) + 1:.0f}",
    }  # fmt: skip
    for name, owner in owners.items():
        open_run(store, name).set_tags({PROCESS: owner})
    done = open_run(store, "done")
    done.close("FINISHED")
    open_run(store, "next")
    status = {row.run_id: row.status for row in rows(store)}
    assert status == {
        "dead": "KILLED", "living": "RUNNING", "reused": "KILLED", "elsewhere": "RUNNING", "adjusted": "RUNNING",
        "done": "FINISHED", "next": "RUNNING",
    }  # fmt: skip


def test_processes_that_start_at_once_share_a_new_store(tmp_path: Path) -> None:
    """Two simultaneous first migrations of a database, or creations of an experiment, would fail in MLflow."""
    begin = f"""
from pathlib import Path
from gen_ray.tracking.store import Store
from gen_ray.tracking.runs import TrackedRun
store = Store.of(None, "new", Path({str(tmp_path)!r}))
import sys
from collections.abc import Callable
print("ready", flush=True)
sys.stdin.readline()
TrackedRun(store, "a-1", name="a", params={{}}, tags={{}}).close("FINISHED")
"""
    command = [sys.executable, "-c", begin]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert experiments(Store.of(None, "new", tmp_path)) == ["Default", "new"]


def test_runs_of_other_tools_in_the_experiment_are_unchanged_and_readable(store: Store) -> None:
    client = connect(store)
    foreign = client.create_run(experiment_id(store, client)).info.run_id
    open_run(store)
    found = {row.run_id: row.status for row in rows(store)}
    assert found == {foreign: "RUNNING", "a-1": "RUNNING"}


def test_pictures_and_folders_are_stored(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"w")
    (tmp_path / "config.yaml").write_text("name: a\n")
    run = open_run(store)
    run.log_image("samples", np.zeros((4, 4, 3), np.uint8), 7)
    run.log_text("samples", "to be\nor not ö\n", 7)
    run.log_artifact(tmp_path / "model", "model")
    run.log_artifact(tmp_path / "config.yaml", "config")
    artifacts = {item.path for folder in ("model", "config") for item in run.client.list_artifacts(run.id, folder)}
    assert artifacts == {"model/weights", "config/config.yaml"}
    assert any("step+7" in item.path or "step%7" in item.path for item in run.client.list_artifacts(run.id, "images"))
    text = Path(run.client.download_artifacts(run.id, "texts/samples/step-000000007.txt"))
    assert text.read_text(encoding="utf-8") == "to be\nor not ö\n"
    assert store.artifact_root is not None and Path(store.artifact_root.removeprefix("file://")).is_dir()


def test_an_experiment_without_runs_is_empty_and_others_are_named(store: Store) -> None:
    assert rows(store) == []
    open_run(store)
    assert store.experiment in experiments(store)


def test_rows_come_in_pages_and_newest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_ray.tracking.runs.PAGE", 2)
    for number in range(5):
        open_run(store, f"a-{number}")
    found = [row.run_id for row in rows(store)]
    assert sorted(found) == [f"a-{number}" for number in range(5)]


@pytest.mark.parametrize("value", [
    "", "elsewhere", "a:b", "a:b:c", ":::", "host:1:nan", "host:-1:1", "host:99999999999999999999:1", "host:x:y",
    "\x00:1:1",
    "host:1:1e400", "host:١:1",
])  # fmt: skip
def test_invalid_process_tags_do_not_close_a_run(store: Store, value: str) -> None:
    """Any user may set a tag, and a tag of another tool must not stop a training."""
    assert not is_gone(value.replace("host", socket.gethostname()))
    run = open_run(store, f"foreign-{len(value)}")
    run.set_tags({PROCESS: value.replace("host", socket.gethostname()).replace("\x00", "")})
    open_run(store, "next")
    assert rows(store)[-1].status == "RUNNING"


def test_a_deleted_experiment_is_named_with_the_remedy(store: Store) -> None:
    run = open_run(store)
    experiment = experiment_id(store, run.client)
    run.client.delete_experiment(experiment)
    for use in (lambda: rows(store), lambda: open_run(store)):
        with pytest.raises(RunError, match=f"was deleted; .* mlflow experiments restore -x {experiment}"):
            use()
    run.client.restore_experiment(experiment)
    assert [row.run_id for row in rows(store)] == ["a-1"]


def test_a_missing_file_is_refused_and_not_retried_forever(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist") as caught:
        open_run(store).log_artifact(tmp_path / "gone", "model")
    assert caught.value.reason == REFUSED


@pytest.mark.parametrize("use", [
    lambda store: open_run(store, odd="\udcff"), lambda store: open_run(store).set_tags({"odd": "\udcff"}),
    lambda store: open_run(store).log_text("odd", "\udcff", 1),
], ids=["params", "tags", "texts"])  # fmt: skip
def test_values_that_are_not_text_are_refused_and_not_retried_forever(
    store: Store, use: Callable[[Store], object]
) -> None:
    with pytest.raises(RunError, match="surrogates not allowed") as caught:
        use(store)
    assert caught.value.reason == REFUSED


@pytest.mark.parametrize(("uri", "remedy"), [
    ("localhost:5000", "did you mean http://localhost:5000"), ("mlflow.example", "is a folder"),
    ("mlflow.example:5000/prefix", "did you mean http://mlflow.example:5000/prefix"),
    ("10.0.0.1:5000", "did you mean http://10.0.0.1:5000"), ("localhost", "did you mean http://localhost"),
    ("./mlruns", "use sqlite:///"), ("file:///tmp/mlruns", "use sqlite:////tmp/mlruns/mlflow.db"),
    ("/tmp/x", "use sqlite"),
    ("ftp://nowhere", r"must be a server.s address, http"), ("s3://bucket/x", r"must be a server.s address, http"),
])  # fmt: skip
def test_a_tracking_uri_without_a_server_or_database_is_named(
    uri: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=remedy) as caught:
        Store.of(uri, "x", Path())
    assert str(caught.value).startswith(f"tracking.uri={uri}: ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI="):
        Store.of(None, "x", Path())


@pytest.mark.parametrize(
    "uri", ["https://a/b", "sqlite:////a.db", "postgresql+psycopg2://a/b", "databricks", "mysql://a"]
)
def test_a_server_or_database_is_accepted(uri: str) -> None:
    assert Store.of(uri, "x", Path()).uri == uri


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///{}/damaged.db", "sqlite:////proc/no/mlflow.db"])
def test_a_store_that_cannot_be_used_is_named_in_one_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged.db").write_bytes(b"not a database" * 100)
    uri = uri.format(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = Store.of(uri, "x", Path())
    readers = [lambda: rows(store)] if store.exists else []  # a missing database is treated as one without runs
    for use in (*readers, lambda: open_run(store)):
        with pytest.raises(RunError) as caught:
            use()
        assert str(caught.value).startswith(f"MLflow at {uri}: ") and "\n" not in str(caught.value)


def test_the_tag_that_finds_a_run_is_documented(store: Store) -> None:
    run = open_run(store)
    assert run.client.get_run(run.id).data.tags[RUN_ID] == "a-1"


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [("database is locked", "end that process, or wait for it"), ("database or disk is full", "free some room there")],
)
def test_errors_of_a_database_have_a_remedy(store: Store, fault: str, remedy: str) -> None:
    with pytest.raises(RunError, match=f"{fault}.*{remedy}") as raised, translate_errors(store):
        raise OperationalError("INSERT", None, sqlite3.OperationalError(fault))
    assert raised.value.reason == "tracking", "a retry may help"


def test_an_error_of_a_database_is_one_line_without_the_traceback_that_mlflow_prints(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    open_run(store)
    copy, original = tmp_path / "mlflow.db", database.file_of(store.uri)
    assert original
    shutil.copy(original, copy)
    run = open_run(replace(store, uri=database.uri_of(copy)))
    with closing(sqlite3.connect(copy)) as other, other:
        other.execute("DROP TABLE tags")
    with pytest.raises(RunError, match="no such table"):
        run.set_tags({"a": "b"})
    assert "Traceback" not in capfd.readouterr().err
