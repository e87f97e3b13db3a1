"""The checkpoint store: which checkpoints of a run are kept, and from which one it resumes."""

import json
import logging
from pathlib import Path

import pytest

from gen_ray.engine.training.checkpoint_store import CheckpointStore
from gen_ray.errors import RunError
from gen_ray.storage import manifest


def of(validation: float) -> dict[str, bytes]:
    """Return the files of a checkpoint with a validation loss."""
    return {"position.json": json.dumps({"validation_nats": validation}).encode()}


def filled(home: Path, losses: list[float], **limits: int) -> CheckpointStore:
    store = CheckpointStore(home, **limits)
    for step, loss in enumerate(losses, start=1):
        store.save(of(loss), step)
    return store


def steps(store: CheckpointStore) -> list[int]:
    return [int(folder.name.removeprefix("step-")) for folder in store.folders()]


@pytest.mark.parametrize(
    ("losses", "limits", "expected"),
    [
        ([3.0, 1.0, 2.0, 4.0], {}, [2, 3, 4]),
        ([4.0, 3.0, 2.0, 1.0], {}, [3, 4]),
        ([float("inf")] * 4, {}, [3, 4]),
        ([1.0, 2.0, 3.0, 4.0], {"keep_last": 1, "keep_best": 2}, [1, 2, 4]),
        ([1.0, 1.0, 2.0, 3.0], {"keep_last": 1}, [2, 4]),
        ([1.0, 2.0, 3.0], {"keep_last": 1, "keep_best": 0}, [3]),
    ],
)
def test_the_newest_and_the_best_are_kept(
    losses: list[float], limits: dict[str, int], expected: list[int], tmp_path: Path
) -> None:
    store = filled(tmp_path, losses, **limits)
    assert steps(store) == expected and store.last() == store.folder_of(expected[-1])


def test_the_lowest_validation_loss_is_found_and_of_equal_ones_the_newest(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").best() is None
    assert filled(tmp_path / "a", [1.0, 3.0, 2.0]).best() == tmp_path / "a" / "step-000000001"
    assert filled(tmp_path / "b", [float("inf")] * 3).best() == tmp_path / "b" / "step-000000003"
    damaged = filled(tmp_path / "c", [1.0, 3.0, 2.0])
    (damaged.folder_of(1) / "MANIFEST.sha256").unlink()
    assert damaged.best() == damaged.folder_of(3)


def test_only_the_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    store = filled(tmp_path, [1.0, 2.0])
    (tmp_path / ".step-000000003.77").mkdir()
    (tmp_path / ".step-000000003.77" / "net.safetensors").write_bytes(b"half")
    assert steps(store) == [1, 2]
    store.remove_drafts()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = filled(tmp_path, [1.0, 2.0, 3.0])
    (store.folder_of(3) / "position.json").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert store.last() == store.folder_of(2)
    [line] = caplog.messages
    assert "step-000000003/position.json" in line and "trying another checkpoint" in line


def test_a_run_with_only_damaged_checkpoints_does_not_start_over(tmp_path: Path) -> None:
    store = filled(tmp_path, [2.0, 1.0])
    for folder in store.folders():
        (folder / manifest.NAME).unlink()
    with pytest.raises(RunError, match=r"step-000000001/MANIFEST\.sha256: missing"):
        store.last()
    assert CheckpointStore(tmp_path / "none").last() is None


def test_replacing_a_store_copies_all_of_its_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    mine, other = filled(tmp_path / "mine", [5.0, 6.0, 7.0, 8.0, 9.0]), filled(tmp_path / "other", [1.0, 2.0, 3.0, 4.0])
    mine.replace_with(other)
    assert steps(mine) == steps(other) == [1, 3, 4]
    last = mine.last()
    assert last is not None and last == tmp_path / "mine" / "step-000000004", "the copied one"
    assert manifest.read(last) == manifest.read(other.folder_of(4))
