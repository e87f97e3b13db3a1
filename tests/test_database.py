"""The database of runs: in folders of any name, moved, copied, read-only, or missing."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gen_ray.errors import UserError
from gen_ray.tracking import database, registry
from gen_ray.tracking.releases import champions, release
from gen_ray.tracking.runs import TrackedRun, experiments, latest_image, row, rows
from gen_ray.tracking.store import Store
from tests.conftest import CommandResult

NAME = "moved"


@pytest.fixture(scope="module")
def original(storage: Path) -> Path:
    """Return a storage with one finished run that has a picture; it uses the session's database."""
    run = TrackedRun(Store.of(None, NAME, storage), "a-1", name="a", params={}, tags={})
    run.log_image("samples", np.full((4, 4, 3), 7, np.uint8), step=1)
    run.close("FINISHED")
    return storage


def copied(original: Path, to: Path) -> Store:
    """Copy the database and the artifacts of the experiment to a folder, and return the store of the copy."""
    to.mkdir(parents=True)
    shutil.copy(original / "mlflow.db", to)
    shutil.copytree(original / database.ARTIFACTS / NAME, to / database.ARTIFACTS / NAME)
    return Store.of(None, NAME, to)


def contents(folder: Path) -> dict[str, int]:
    """Return the modification time of everything below a folder by name."""
    return {str(found.relative_to(folder)): found.stat().st_mtime_ns for found in folder.rglob("*")}


def test_a_copied_storage_uses_its_own_artifacts_and_not_the_original(original: Path, tmp_path: Path) -> None:
    before = contents(original / database.ARTIFACTS)
    store = copied(original, tmp_path / "it's [a] copy? 100%41 #1")
    [old] = rows(store)
    drawn = next(tmp_path.rglob("*.png"))
    drawn.write_bytes(b"the copy's own")
    assert latest_image(store, old, "samples") == b"the copy's own"
    again = TrackedRun(store, "a-2", name="a", params={}, tags={})
    again.log_text("note", "here", 1)
    assert [*(tmp_path.rglob("step-*.txt"))]
    assert contents(original / database.ARTIFACTS) == before


def test_a_link_to_the_storage_is_the_same_storage(original: Path, tmp_path: Path) -> None:
    store = copied(original, tmp_path / "real")
    rows(store)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = (tmp_path / "real" / "mlflow.db").read_bytes()
    assert [found.run_id for found in rows(Store.of(None, NAME, tmp_path / "link"))] == ["a-1"]
    assert (tmp_path / "real" / "mlflow.db").read_bytes() == before


def test_a_read_only_storage_can_be_read_and_is_not_changed(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "is_writable", lambda file: tmp_path not in file.parents)
    store = copied(original, tmp_path / "read only")
    before = contents(tmp_path)
    [found] = rows(store)
    assert row(store, "a-1").run_id == "a-1" and NAME in experiments(store)
    assert latest_image(store, found, "samples") and champions(store) == champions(Store.of(None, NAME, original))
    assert contents(tmp_path) == before


def test_readers_of_a_storage_that_does_not_exist_create_nothing(tmp_path: Path) -> None:
    store = Store.of(None, NAME, tmp_path / "nowhere")
    assert rows(store) == [] and experiments(store) == [] and champions(store) == []
    assert registry.champion(store, "m") is None
    for read in (
        lambda: row(store, "a-1"),
        lambda: release(store, "models:/m@champion"),
        lambda: registry.rollback(store, "m"),
    ):
        with pytest.raises(UserError, match=r"mlflow\.db: does not exist.*`storage`"):
            read()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "words",
    [
        ("compare",),
        ("compare", "x", "--where", "family=vae"),
        ("doctor",),
        ("sample", "nothing"),
        ("score", "nothing", "x.png"),
        ("sample", "models:/m@champion"),
        ("evaluate", "nothing"),
        ("ema", "nothing"),
        ("promote", "nothing"),
        ("promote", "--best", "eval/bits_per_dim"),
        ("promote", "--rollback", "m"),
        ("schedule", "list"),
    ],
)
def test_commands_that_read_create_nothing(
    gen_ray: Callable[..., CommandResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = gen_ray(*words)
    assert result.code in (0, 1, 2) and "Traceback" not in result.err
    assert not [*tmp_path.iterdir()], result


KILLED = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA cache_size = 1")  # pages go to the file before the transaction ends
database.execute("CREATE TABLE rows AS SELECT 1 AS number")
database.commit()
database.executemany("INSERT INTO rows VALUES (?)", ((number,) for number in range(99999)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_during_a_write_leaves_a_readable_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mlflow.db"
    subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert (tmp_path / "mlflow.db-journal").stat().st_size
    with monkeypatch.context() as reader:
        reader.setattr(database, "is_writable", lambda _: False)
        with pytest.raises(UserError, match=r"mlflow\.db: a process was killed"):
            database.snapshot(file, None)
    database.check(file)
    assert not (tmp_path / "mlflow.db-journal").exists()
    with closing(sqlite3.connect(database.snapshot(file, None))) as copy:
        assert copy.execute("SELECT * FROM rows").fetchall() == [(1,)]
