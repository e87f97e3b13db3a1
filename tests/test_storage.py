"""Storage on folders and on a real S3 server through the same functions."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gen_ray.datasets.prepare import prepare
from gen_ray.datasets.prepared import DataError
from gen_ray.datasets.shards import load_split
from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation import features
from gen_ray.engine.inference import model_files
from gen_ray.engine.training import checkpoint_store
from gen_ray.engine.training.checkpoint_store import CheckpointStore
from gen_ray.errors import RunError, UserError
from gen_ray.experiment import parse
from gen_ray.nets.classifier import Classifier
from gen_ray.storage import manifest, paths, replacement
from gen_ray.storage.paths import resolve
from gen_ray.sweeps.journal import journal
from gen_ray.tracking.store import Store


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return an empty root: a folder or a bucket."""
    return tmp_path / "root" if request.param == "folder" else request.getfixturevalue("s3") / tmp_path.name


def fill(content: str, draft: Path) -> None:
    (draft / "deep").mkdir()
    (draft / "a").write_text(content)
    (draft / "deep" / "b").write_text(content)
    manifest.write(draft)


def test_a_folder_appears_complete_and_can_be_replaced_copied_and_removed(root: Path) -> None:
    for content in ("first", "second"):
        paths.commit(root / "f", partial(fill, content))
    with paths.local_copy(root / "f") as found:
        manifest.verify(found)
        assert (found / "deep" / "b").read_text() == "second"
    paths.commit(root / "g", partial(paths.copy, root / "f"))
    assert [f.name for f in paths.complete(root, "*")] == ["f", "g"]
    paths.remove(root / "f")
    assert not (root / "f").exists() and [f.name for f in paths.complete(root, "*")] == ["g"]
    assert paths.drafts(root) == []


def test_only_drafts_are_removed_as_drafts(tmp_path: Path) -> None:
    """Preparing data removes drafts; a hidden folder of another program stays."""
    (tmp_path / "data" / ".mine").mkdir(parents=True)
    (tmp_path / "data" / ".digits-0.77.partial").mkdir()
    prepare("digits", out=tmp_path / "data")
    assert [folder.name for folder in (tmp_path / "data").glob(".*")] == [".mine"]


def test_a_folder_whose_writer_failed_does_not_exist(root: Path) -> None:
    def fail(draft: Path) -> None:
        (draft / "a").write_text("half")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        paths.commit(root / "f", fail)
    assert not (root / "f").exists() and paths.drafts(root) == []


def test_on_an_object_store_a_version_exists_once_the_pointer_names_it(s3: Path, tmp_path: Path) -> None:
    """The files of a killed writer are not taken for a checkpoint, and the next writer replaces them."""
    home = CheckpointStore(s3 / tmp_path.name)
    home.add({"a": b"1"}, 5)
    (home.folder_of(7) / "a").write_bytes(b"half")
    assert home.folders() == [home.folder_of(5)] and home.last() == home.folder_of(5)
    home.add({"a": b"2"}, 7)
    (paths.current_version(home.folder_of(7)) / "a").write_bytes(b"3")
    assert home.last() == home.folder_of(5)  # the newer one is damaged and skipped


def test_the_object_store_layout_of_an_older_release_is_read(s3: Path, tmp_path: Path) -> None:
    """Before versions existed, the files were in the folder itself."""
    folder = s3 / tmp_path.name / "f"
    (folder / "a").write_bytes(b"1")
    (folder / manifest.NAME).write_text(manifest.text({"a": sha256(b"1").hexdigest()}))
    assert paths.exists(folder) and paths.complete(folder.parent, "*") == [folder]
    paths.read(folder, manifest.verify)
    paths.commit(folder, partial(fill, "second"))
    assert paths.read(folder, content) == "second"


def content(folder: Path) -> str:
    """Return the content that fill wrote, after a check of the folder."""
    manifest.verify(folder)
    [text] = {(folder / "a").read_text(), (folder / "deep" / "b").read_text()}
    return text


@pytest.fixture(params=["in one step", "in two steps"])
def _disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a file system with or without atomic exchange of names."""
    if request.param == "in two steps":
        monkeypatch.setattr(replacement, "swap", lambda first, second: False)


@pytest.mark.usefixtures("_disk")
def test_readers_see_the_old_or_the_new_version_during_a_replacement(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    paths.commit(folder, partial(fill, "0"))

    def write(first: int) -> None:
        for number in range(first, first + 40):
            paths.commit(folder, partial(fill, str(number)))

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, first) for first in (1, 101, 201)]
        versions = set[str]()
        while not all(writer.done() for writer in writing):
            versions.add(paths.read(folder, content))
        assert [writer.result() for writer in writing] == [None] * 3
    assert len(versions) > 1 and paths.read(folder, content) in {"40", "140", "240"}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_folder_that_is_being_removed_is_not_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During the removal of the old version another writer moves the new one, and a reader looks for the folder."""
    folder, found = tmp_path / "f", list[str]()
    paths.commit(folder, partial(fill, "old"))
    monkeypatch.setattr(replacement, "swap", lambda first, second: False)
    rmtree = shutil.rmtree

    def slow(target: Path, **options: Any) -> None:
        if not found and folder.exists():
            (target / "a").unlink()
            folder.rename(replacement.hidden_path(folder, ".elsewhere"))
            found.append(str(replacement.restore_folder(folder)))
        rmtree(target, **options)

    monkeypatch.setattr(shutil, "rmtree", slow)
    paths.commit(folder, partial(fill, "new"))
    assert found == ["False"]


class Killed(BaseException):
    """Stands for the sudden end of a process."""


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("after", range(6))
def test_a_kill_at_any_moment_leaves_the_old_version_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    folder, left = tmp_path / "f", [after]
    paths.commit(folder, partial(fill, "first"))

    def dying(act: Any) -> Any:
        def do(*args: Any, **options: Any) -> Any:
            if left[0] <= 0:
                raise Killed
            left[0] -= 1
            return act(*args, **options)

        return do

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(replacement, "swap", dying(replacement.swap))
        patched.setattr(Path, "rename", dying(Path.rename))
        patched.setattr(shutil, "rmtree", dying(shutil.rmtree))
        paths.commit(folder, partial(fill, "second"))
    assert paths.exists(folder) and paths.read(folder, content) in {"first", "second"}
    paths.commit(folder, partial(fill, "third"))
    assert paths.read(folder, content) == "third"


def test_a_failed_upload_keeps_the_previous_version(s3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = s3 / tmp_path.name / "f"
    paths.commit(folder, partial(fill, "first"))

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(paths.remote(folder)[0], "put", fail)
        with pytest.raises(OSError, match="no more"):
            paths.commit(folder, partial(fill, "second"))
    assert paths.read(folder, content) == "first"
    paths.commit(folder, partial(fill, "third"))
    assert paths.read(folder, content) == "third" and len(list(folder.iterdir())) == 2


def test_a_text_file_can_be_written_by_several_processes_at_once(root: Path) -> None:
    if not paths.is_remote(root):
        root.mkdir()
    texts = [str(number) * 5000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: paths.write_atomic(root / "f", text), texts * 5))
    assert (root / "f").read_text() in texts and [file.name for file in root.iterdir()] == ["f"]


def test_one_process_at_a_time_trains_an_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(name="toy", kind="image", shape=(1, 8, 8), levels=17, classes=("a", "b"))
    trained = list[int]()

    def train(spec: DataSpec, x: Tensor, labels: Tensor) -> Classifier:
        trained.append(len(x))
        time.sleep(0.2)
        return Classifier(spec.shape, len(spec.classes), features=features.FEATURES).eval()

    monkeypatch.setattr(features, "train", train)
    rows = torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.int32)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(features.load_or_train, tmp_path / "e" / "f", spec, lambda split: rows) for _ in range(4)]
        [name] = {extractor.result().name for extractor in found}
    assert trained == [8] and name.startswith("classifier-")


def test_the_kept_checkpoints_are_the_same_on_both_storages(root: Path) -> None:
    home = CheckpointStore(root / "checkpoints")
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0)):
        position = f'{{"step": {step}, "validation_nats": {loss}}}'.encode()
        home.save({"position.json": position}, step)
    assert [checkpoint_store.step_of(folder) for folder in home.folders()] == [2, 3, 4]
    assert home.best() == home.folder_of(2)
    other = CheckpointStore(root / "other")
    other.replace_with(home)
    assert [folder.name for folder in other.folders()] == [folder.name for folder in home.folders()]


def test_a_journal_can_be_reopened(root: Path) -> None:
    if not paths.is_remote(root):
        root.mkdir()
    first = journal(root / "study.jsonl")
    entries = [{"op_code": 0, "a": 1}, {"op_code": 4, "b": 2}, {"op_code": 5, "c": 3}]
    first.append_logs(entries[:1])
    first.append_logs(entries[1:])
    assert list(journal(root / "study.jsonl").read_logs(1)) == entries[1:]


def test_a_damaged_shard_on_s3_is_named(s3: Path, tmp_path: Path) -> None:
    prepared = prepare("digits", out=s3 / tmp_path.name)
    shard = prepared.shards("test")[0].path
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"{shard}: damaged"):
        load_split(prepared, "test")


def test_unreachable_storage_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"zz://a: must be a folder or s3://BUCKET/PREFIX"):
        resolve("zz://a")
    with pytest.raises(UserError, match=r"tracking\.uri: is needed where storage.root is s3://b/c"):
        Store.of(None, "gen_ray", resolve("s3://b/c"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert Store.of(None, "gen_ray", resolve("s3://b/c")).uri == "http://mlflow:5000"
    monkeypatch.setenv("GEN_RAY_STORAGE", "s3://bucket/prefix/")
    assert parse({"name": "a", "family": "vae"}).resolved()["storage"]["root"] == "s3://bucket/prefix"
    with pytest.raises(UserError, match=r"storage.root: .*_ray_pkg_1.*GEN_RAY_STORAGE"):
        parse({"name": "a", "family": "vae", "storage": {"root": str(tmp_path / "_ray_pkg_1" / "runs")}})


def test_an_unreachable_root_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConnectionRefusedError("refused by the peer")

    root = resolve("s3://bucket/unreachable")
    monkeypatch.setattr(type(root), "exists", lambda self: refuse())
    with pytest.raises(UserError, match=r"storage\.root=s3://bucket/unreachable: refused by the peer"):
        paths.check(root)


def test_a_refusal_of_an_object_store_is_reported_in_one_line(s3: Path) -> None:
    with pytest.raises(RunError, match="s3://no-such-bucket/x: could not be written"):
        model_files.write(resolve("s3://no-such-bucket/x"), {"a": b"1"})
