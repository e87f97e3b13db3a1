"""Images and texts in files: their blocks, completions that keep the known values, and scores."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gen_ray.datasets.shards import to_numpy
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.impute import complete
from gen_ray.engine.inference.rows.blocks import DrawnBlocks
from gen_ray.engine.inference.rows.example_tasks import ExampleCompletions, ExampleScores, summary
from gen_ray.engine.inference.rows.examples import inspect
from gen_ray.engine.inference.rows.run import run_here
from gen_ray.engine.inference.rows.sample import SampleTask
from gen_ray.engine.inference.score import bits_per_dim
from gen_ray.errors import UserError
from tests.engine import tiny_models
from tests.engine.row_models import CPU, output

PLAY = DataSpec(name="play", kind="tokens", shape=(5,), levels=4, alphabet=" abc")


def write_values(file: Path, x: np.ndarray, missing: np.ndarray | None = None) -> Path:
    """Write values (n, *shape) as flat lists with null where missing."""
    rows = [[None if hole else int(value) for value, hole in zip(row, holes, strict=True)]
            for row, holes in zip(x.reshape(len(x), -1), (np.zeros(x.shape, bool) if missing is None else missing)
                                  .reshape(len(x), -1), strict=True)]  # fmt: skip
    pq.write_table(pa.table({"x": pa.array(rows, pa.list_(pa.int16()))}), file)
    return file


def tables(results: list[bytes]) -> pa.Table:
    return pa.concat_tables([pq.read_table(io.BytesIO(part)) for part in results])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_ray.engine.inference.rows.blocks.EXAMPLES", 4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("family", ["vae", "ddpm", "discrete-absorbing", "score_sde"])
def test_completions_are_those_of_single_instances_and_keep_known_values(family: str, tmp_path: Path) -> None:
    model = tiny_models.model(family)
    x = tiny_models.images(10).numpy()
    missing = np.random.default_rng(0).random(x.shape) < 0.5
    missing[3] = False
    blocks = inspect(write_values(tmp_path / "x.parquet", x, missing), model.spec)
    assert (blocks.rows, blocks.missing, len(blocks)) == (10, missing.sum(), 3)
    table = tables(output(model, ExampleCompletions(k=3, seed=5), blocks))
    assert table.column("row").to_pylist() == [row for row in range(10) for _ in range(1 if row == 3 else 3)]
    assert table.column("completion").to_pylist() == [j for row in range(10) for j in range(1 if row == 3 else 3)]
    assert table.column("name").to_pylist()[:4] == ["x.parquet#0"] * 3 + ["x.parquet#1"]
    made, rows = to_numpy(table), np.array(table.column("row").to_pylist())
    assert (made[~missing[rows]] == x[rows][~missing[rows]]).all() and (made[rows == 3] == x[3]).all()
    known, mask = torch.from_numpy(x[:3]), torch.from_numpy(~missing[:3])
    single = complete(model, known, mask, 3, seed=5, device=CPU).samples.numpy()
    assert (made[:9].reshape(single.shape) == single).mean() > 0.99, "a different batch size may round otherwise"


@pytest.mark.usefixtures("small_blocks")
def test_a_mask_for_all_images_of_a_folder(tmp_path: Path) -> None:
    model = tiny_models.model("vae")
    (tmp_path / "a").mkdir()
    for i in range(5):
        Image.fromarray(np.full((4, 4), 15 * i, np.uint8)).save(tmp_path / "a" / f"{i}.png")
    below = np.zeros((1, 4, 4), bool)
    below[:, 2:] = True
    table = tables(output(model, ExampleCompletions(k=2, seed=0, missing=below), inspect(tmp_path, model.spec)))
    assert table.column("name").to_pylist()[::2] == [f"a/{i}.png" for i in range(5)]
    made = to_numpy(table)
    assert (made[:, :, :2] == np.repeat(np.round(15 * np.arange(5) / 255 * 16), 2)[:, None, None, None]).all()


def test_texts_with_holes_are_completed(tmp_path: Path) -> None:
    experiment = tiny_models.experiment("tokens")
    family = experiment.model(PLAY)
    torch.manual_seed(0)
    from gen_ray.engine.inference.artifact import Model

    model = Model(experiment=experiment, family=family, net=family.build_net().eval().requires_grad_(False), meta={})
    pq.write_table(pa.table({"text": ["a__ b", "ab", "abc a"]}), tmp_path / "t.parquet")
    blocks = inspect(tmp_path / "t.parquet", PLAY, hole="_")
    assert blocks.missing == 5
    table = tables(output(model, ExampleCompletions(k=2, seed=0), blocks))
    texts = table.column("text").to_pylist()
    assert [text[0] + text[3:] for text in texts[:2]] == ["a b"] * 2 and texts[2].startswith("ab")
    assert texts[4:] == ["abc a"] and all(len(text) == 5 for text in texts)
    with pytest.raises(UserError, match=r"t\.parquet, row 0: has '_', which is not in play"):
        inspect(tmp_path / "t.parquet", PLAY)
    pq.write_table(pa.table({"text": ["abc a", "ab"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"row 1: has 2 characters, the model's texts have 5"):
        inspect(tmp_path / "t.parquet", PLAY)


@pytest.mark.usefixtures("small_blocks")
def test_scores_of_samples(tmp_path: Path) -> None:
    """Files that gen-ray sample writes are scored, in order, with the family's own likelihood."""
    model = tiny_models.model("discrete-order")
    for i, part in enumerate(output(model, SampleTask(suffix=".parquet", seed=0), DrawnBlocks(10, 6))):
        (tmp_path / f"part-{i}.parquet").write_bytes(part)
    blocks = inspect(tmp_path, model.spec)
    results = list(run_here(model, ExampleScores(suffix=".parquet", effort=1, seed=0), blocks, frozenset(), CPU))
    table = tables([result.files["rows"].content for result in results])
    names = [f"part-{i}.parquet#{row}" for i, rows in enumerate((6, 4)) for row in range(rows)]
    assert table.column("name").to_pylist() == names
    x = np.concatenate([to_numpy(pq.read_table(tmp_path / f"part-{i}.parquet")) for i in range(2)])
    with torch.inference_mode():
        nats = model.family.nll(model.net, torch.from_numpy(x), torch.Generator().manual_seed(0), effort=1).nats
    bits = bits_per_dim(nats.double(), 16).tolist()
    assert table.column("bits_per_dim").to_pylist() == pytest.approx(bits, rel=1e-5), "exact: no noise"
    first, *unusual = summary(result.statistics for result in results)
    assert first == f"mean {np.mean(bits):.4f} bits/dim (ar)" and len(unusual) == 5
    assert unusual[0] == f"{names[int(np.argmax(bits))]}: {max(bits):.4f} bits/dim"


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"x": [[0] * 16, [0] * 15]}, r"bad\.parquet, row 1: column 'x' needs 16 values, shape \(1, 4, 4\)"),
        ({"x": [[0] * 16, None]}, r"bad\.parquet, row 1: column 'x' needs 16 values"),
        ({"x": [[0] * 15 + [17]]}, r"bad\.parquet, row 0: 17 is not a value from 0 to 16"),
        ({"x": [[0] * 15 + [-1]]}, r"bad\.parquet, row 0: -1 is not a value from 0 to 16"),
        ({"y": [1]}, r"needs a column x of lists or tensors of integers; its columns are y \(int64\)"),
        ({"x": pa.array([], pa.list_(pa.int8()))}, "holds no examples"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, columns: dict[str, Any], fault: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=fault):
        inspect(tmp_path / "bad.parquet", tiny_models.SPEC)
    with pytest.raises(UserError, match="none\\.parquet: no such file"):
        inspect(tmp_path / "none.parquet", tiny_models.SPEC)


def test_missing_values_are_not_scored(tmp_path: Path) -> None:
    x = tiny_models.images(2).numpy()
    missing = np.zeros(x.shape, bool)
    missing[1, 0, 0, 0] = True
    blocks = inspect(write_values(tmp_path / "x.parquet", x, missing), tiny_models.SPEC)
    with pytest.raises(UserError, match=r"^x\.parquet#1: has missing values; fill them with gen-ray impute$"):
        output(tiny_models.model(), ExampleScores(suffix=".csv", effort=1, seed=0), blocks)
