"""A refused command leaves the storage unchanged: no folder of a run or sweep, and no empty folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gen_ray.cluster.sweeps.sweep import sweep
from gen_ray.cluster.training.train import train
from gen_ray.datasets.prepare import prepare
from gen_ray.errors import RunError, UserError
from gen_ray.storage.cleanup import cleanup_on_error
from tests.cluster.test_sweep import plan
from tests.cluster.tiny_runs import tiny

NOWHERE = "sqlite:////proc/none/mlflow.db"
SPACE = {"family.latent_dim": {"choice": [3, 4]}}


def refuse_train(folder: Path, root: Path, **changed: dict) -> None:
    train(tiny(root, **changed))


def refuse_sweep(folder: Path, root: Path, **changed: dict) -> None:
    sweep(plan(folder, root, "refused", space=SPACE, settings=changed))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("command", [refuse_train, refuse_sweep])
@pytest.mark.parametrize("older", [False, True])
def test_a_training_or_sweep_that_is_refused_leaves_only_its_data(
    command: Callable[..., None], older: bool, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    existing = {root / "sweeps", root / "runs", root / "outbox"} if older else set()
    for folder in existing:
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"scaling\.use_gpu=true: .*\b0\b"):
        command(tmp_path, root, scaling={"use_gpu": True})
    if not older:
        with pytest.raises(RunError, match="MLflow at sqlite"):
            command(tmp_path, root, tracking={"uri": NOWHERE})
    assert set(root.iterdir()) == existing | {root / "data"}
    assert not [path for folder in existing for path in folder.iterdir()]


def test_data_that_cannot_be_prepared_leave_no_folders(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(UserError, match="too few for one example"):
        prepare(f"text:{tmp_path}/short.txt", out=tmp_path / "runs" / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


def test_only_empty_folders_of_the_command_itself_are_removed(tmp_path: Path) -> None:
    (tmp_path / "older").mkdir()
    used = tmp_path / "new" / "used"
    with pytest.raises(RuntimeError), cleanup_on_error(tmp_path / "older", tmp_path / "new" / "empty", used):
        _fail_after(tmp_path / "new" / "empty", used)
    assert {path.name for path in tmp_path.rglob("*")} == {"older", "new", "used", "file"}


def _fail_after(empty: Path, used: Path) -> None:
    for folder in (empty, used):
        folder.mkdir(parents=True)
    (used / "file").touch()
    raise RuntimeError
