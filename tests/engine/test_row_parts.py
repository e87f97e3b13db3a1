"""The unfinished output of files of rows: continued for the same job only, and complete or absent."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_ray.engine.inference.rows.files import encode_file
from gen_ray.engine.inference.rows.parts import Parts
from gen_ray.engine.inference.rows.results import BlockResult
from gen_ray.errors import RunError, UserError


def block(index: int, suffix: str, first: int = 0) -> BlockResult:
    rows = pa.table({"x": [str(first + 2 * index), 'a,"b'], "y": pa.array([None, "é"])})
    return BlockResult(index, 2, {"rows": encode_file(rows, suffix)}, {"index": index})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parts_of_the_same_job_continue_and_are_joined_in_order(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"rows{suffix}"
    first = Parts({"rows": out}, False, {"seed": 1})
    with first.opened():
        first.add(block(2, suffix))
        first.add(block(0, suffix))
    assert not out.exists()
    second = Parts({"rows": out}, False, {"seed": 1})
    with second.opened():
        assert {index: record["statistics"] for index, record in second.finished.items()} == {
            0: {"index": 0},
            2: {"index": 2},
        }
        second.add(block(1, suffix))
        second.complete()
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    if suffix == ".csv":
        assert out.read_text() == 'x,y\n0,\n"a,""b",é\n2,\n"a,""b",é\n4,\n"a,""b",é\n'
    else:
        assert pq.read_table(out).column("x").to_pylist() == ["0", 'a,"b', "2", 'a,"b', "4", 'a,"b']


def test_parts_of_another_job_are_not_used(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    first = Parts({"rows": out}, False, {"seed": 1})
    with first.opened():
        first.add(block(0, ".csv", 50))
        first.add(block(1, ".csv"))
    second = Parts({"rows": out}, False, {"seed": 2})
    with second.opened():
        assert not second.finished
        second.add(block(0, ".csv"))
        second.complete()
    assert out.read_text() == 'x,y\n0,\n"a,""b",é\n'


def test_a_part_that_was_changed_is_computed_again(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    first = Parts({"rows": out}, False, {})
    with first.opened():
        first.add(block(0, ".csv"))
        [part] = first.folder.glob("rows-*")
        part.write_text("x,y\n")
        with pytest.raises(RunError, match="was changed; repeat the command"):
            first.complete()
    assert not out.exists()
    second = Parts({"rows": out}, False, {})
    with second.opened():
        assert not second.finished


@pytest.mark.parametrize("lost", ["block-00001.json", "rows-00001.csv", "cut", "emptied"])
def test_a_block_that_was_lost_is_computed_again(tmp_path: Path, lost: str) -> None:
    """After a power failure the last files may be empty, cut off or absent."""
    out = tmp_path / "rows.csv"
    first = Parts({"rows": out}, False, {})
    with first.opened():
        first.add(block(0, ".csv"))
        first.add(block(1, ".csv"))
        if lost == "cut":
            (first.folder / "rows-00001.csv").write_bytes(b"x,y")
        elif lost == "emptied":
            (first.folder / "block-00001.json").write_bytes(b"")
        else:
            (first.folder / lost).unlink()
    second = Parts({"rows": out}, False, {})
    with second.opened():
        assert set(second.finished) == {0}
        second.add(block(1, ".csv"))
        second.complete()
    assert out.read_text() == 'x,y\n0,\n"a,""b",é\n2,\n"a,""b",é\n'


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "rows.csv").symlink_to(tmp_path / "disk" / "rows.csv")
    parts = Parts({"rows": tmp_path / "rows.csv"}, False, {})
    with parts.opened():
        parts.add(block(0, ".csv"))
        parts.complete()
    assert (tmp_path / "rows.csv").is_symlink() and (tmp_path / "disk" / "rows.csv").read_text().startswith("x,y")


def test_two_commands_do_not_write_the_same_file(tmp_path: Path) -> None:
    first, second = (Parts({"rows": tmp_path / "rows.csv"}, False, {}) for _ in range(2))
    with first.opened(), pytest.raises(UserError, match="another command writes it at the moment"), second.opened():
        pass


def test_a_folder_on_an_object_store(s3: Path) -> None:
    out = s3 / "many"
    first = Parts({"rows": out}, True, {"seed": 1})
    with first.opened():
        first.add(block(1, ".parquet"))
    second = Parts({"rows": out}, True, {"seed": 1})
    with second.opened():
        assert list(second.finished) == [1]
        second.add(block(0, ".parquet"))
        second.complete()
    assert sorted(file.name for file in out.iterdir()) == ["_SUCCESS", "part-00000.parquet", "part-00001.parquet"]
    third = Parts({"rows": out}, True, {"seed": 2})
    with third.opened():
        third.add(block(0, ".parquet"))
        third.complete()
    assert sorted(file.name for file in out.iterdir()) == ["_SUCCESS", "part-00000.parquet"]
    (s3 / "mine").mkdir(exist_ok=True)
    (s3 / "mine" / "notes.txt").write_text("x")
    other = Parts({"rows": s3 / "mine"}, True, {})
    with pytest.raises(UserError, match="holds other files"), other.opened():
        pass
