"""Folders and object stores through the same verbs, the latter against a real S3 server."""

from functools import partial
from pathlib import Path

import pytest

from gen_ray import manifest, storage
from gen_ray.datasets.prepare import prepare
from gen_ray.datasets.prepared import DataError
from gen_ray.datasets.shards import load_split
from gen_ray.engine import checkpoint, shelf
from gen_ray.engine.shelf import Shelf
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import parse
from gen_ray.storage import place
from gen_ray.store import Store
from gen_ray.sweeps.journal import journal


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return an empty root of either kind."""
    return tmp_path / "root" if request.param == "folder" else request.getfixturevalue("s3") / tmp_path.name


def fill(content: str, draft: Path) -> None:
    (draft / "deep").mkdir()
    (draft / "a").write_text(content)
    (draft / "deep" / "b").write_text(content)
    manifest.write(draft)


def test_a_folder_appears_whole_and_can_be_replaced_copied_and_removed(root: Path) -> None:
    for content in ("first", "second"):
        storage.commit(root / "f", partial(fill, content))
    with storage.here(root / "f") as found:
        manifest.verify(found)
        assert (found / "deep" / "b").read_text() == "second"
    storage.commit(root / "g", partial(storage.copy, root / "f"))
    assert [f.name for f in storage.complete(root, "*")] == ["f", "g"]
    storage.remove(root / "f")
    assert not (root / "f").exists() and [f.name for f in storage.complete(root, "*")] == ["g"]
    assert storage.drafts(root) == []


def test_only_drafts_are_taken_for_drafts(tmp_path: Path) -> None:
    """Preparing clears drafts away; a hidden folder that is somebody else's stays."""
    (tmp_path / "data" / ".mine").mkdir(parents=True)
    (tmp_path / "data" / ".digits-0.77.partial").mkdir()
    prepare("digits", out=tmp_path / "data")
    assert [folder.name for folder in (tmp_path / "data").glob(".*")] == [".mine"]


def test_a_folder_whose_writer_failed_is_not_there(root: Path) -> None:
    def fail(draft: Path) -> None:
        (draft / "a").write_text("half")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        storage.commit(root / "f", fail)
    assert not (root / "f").exists() and storage.drafts(root) == []


def test_on_an_object_store_the_manifest_comes_last_and_goes_first(s3: Path, tmp_path: Path) -> None:
    """A writer killed half way leaves what nobody takes for a checkpoint, and the next one replaces it."""
    home = Shelf(s3 / tmp_path.name)
    home.add({"a": b"1"}, 5)
    (home.place(7) / "a").write_bytes(b"half")
    assert home.folders() == [home.place(5)] and home.last() == home.place(5)
    home.add({"a": b"2"}, 7)
    (home.place(7) / "a").write_bytes(b"3")
    assert home.last() == home.place(5)  # damaged: passed over


def test_what_is_kept_of_checkpoints_is_the_same(root: Path) -> None:
    home = Shelf(root / "checkpoints")
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0)):
        position = f'{{"step": {step}, "validation_nats": {loss}}}'.encode()
        home.save({"position.json": position}, step)
    assert [shelf.step_of(folder) for folder in home.folders()] == [2, 3, 4]
    assert home.lowest() == home.place(2)
    other = Shelf(root / "other")
    other.become(home)
    assert [folder.name for folder in other.folders()] == [folder.name for folder in home.folders()]


def test_a_journal_is_found_again(root: Path) -> None:
    if not storage.is_remote(root):
        root.mkdir()
    first = journal(root / "study.jsonl")
    first.append_logs([{"a": 1}])
    first.append_logs([{"b": 2}, {"c": 3}])
    assert list(journal(root / "study.jsonl").read_logs(1)) == [{"b": 2}, {"c": 3}]


def test_a_damaged_shard_on_s3_is_named(s3: Path, tmp_path: Path) -> None:
    prepared = prepare("digits", out=s3 / tmp_path.name)
    shard = prepared.shards("test")[0].path
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"{shard}: damaged"):
        load_split(prepared, "test")


def test_what_cannot_be_reached_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"storage\.root=zz://a: Unsupported"):
        place("zz://a")
    with pytest.raises(UserError, match=r"tracking\.uri: is needed where storage.root is s3://b/c"):
        Store.of(None, "gen_ray", place("s3://b/c"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert Store.of(None, "gen_ray", place("s3://b/c")).uri == "http://mlflow:5000"
    monkeypatch.setenv("GEN_RAY_STORAGE", "s3://bucket/prefix/")
    assert parse({"name": "a", "family": "vae"}).resolved()["storage"]["root"] == "s3://bucket/prefix"
    with pytest.raises(UserError, match=r"storage.root: .*_ray_pkg_1.*GEN_RAY_STORAGE"):
        parse({"name": "a", "family": "vae", "storage": {"root": str(tmp_path / "_ray_pkg_1" / "runs")}})


def test_a_root_that_cannot_be_reached_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConnectionRefusedError("nobody there")

    root = place("s3://bucket/unreachable")
    monkeypatch.setattr(type(root), "exists", lambda self: refuse())
    with pytest.raises(UserError, match=r"storage\.root=s3://bucket/unreachable: nobody there"):
        storage.check(root)


def test_an_object_store_that_refuses_is_told_in_one_line(s3: Path) -> None:
    with pytest.raises(RunError, match="s3://no-such-bucket/x: could not be written"):
        checkpoint.write(place("s3://no-such-bucket/x"), {"a": b"1"})
