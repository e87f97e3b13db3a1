"""The reader that gives blocks of a file to workers: few in memory, and any of them again."""

from pathlib import Path

import pyarrow as pa
import pytest

from gen_ray.cluster.inference.reading import BlockReader
from gen_ray.engine.inference.rows.blocks import FileBlocks, inspect
from gen_ray.errors import RunError
from tests.engine.row_models import perfect_model, write_csv


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileBlocks:
    monkeypatch.setattr("gen_ray.engine.inference.rows.blocks.BLOCK_ROWS", 64)
    file = write_csv(tmp_path / "rows.csv", pa.table({"number": [0, 1, 2, 3, 5] * 100}))
    return inspect(file, perfect_model().spec.columns)


def test_blocks_that_workers_ask_for_in_another_order(blocks: FileBlocks) -> None:
    reader = BlockReader(blocks, {2})
    order = [1, 0, 5, 3, 4, 7, 6]
    assert [reader.block(index).index for index in order] == order and not reader.waiting


def test_the_block_of_a_lost_worker_is_found_again(blocks: FileBlocks) -> None:
    reader = BlockReader(blocks, ())
    first = [reader.block(index) for index in range(4)]
    assert reader.block(1) == first[1]
    assert reader.block(4).first == 256 and not reader.waiting


def test_a_block_whose_workers_die_repeatedly_is_an_error(blocks: FileBlocks) -> None:
    reader = BlockReader(blocks, ())
    for _ in range(5):
        assert reader.block(2).first == 128
    with pytest.raises(RunError, match="block 2: 5 workers died while they computed it"):
        reader.block(2)


def test_a_file_that_lost_rows(blocks: FileBlocks) -> None:
    blocks.path.write_text("number\n1\n")
    reader = BlockReader(blocks, ())
    with pytest.raises(RunError, match="block 3 of 8 is gone: the file was changed; repeat the command"):
        reader.block(3)
