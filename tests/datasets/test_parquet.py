"""Parquet files of users: every layout, every kind of damage, and more data than memory."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gen_ray.configuration.base import validated
from gen_ray.datasets.prepare import BadRows, Prepared, SourceOptions, prepare
from gen_ray.datasets.rows import SPLITS
from gen_ray.datasets.shards import load_split
from gen_ray.errors import UserError

N = 120


def make(home: Path, skip: int = 0, pattern: str = "*.parquet", **options: object) -> Prepared:
    return prepare(
        f"parquet:{pattern}",
        root=home / "tables",
        out=home / "out",
        options=SourceOptions(**options),
        on_bad_row=BadRows(skip),
    )


def save(home: Path, x: pa.Array | list, name: str = "a.parquet", group: int = 50, **columns: object) -> Path:
    (home / "tables").mkdir(exist_ok=True)
    table = pa.table({"x": x, **columns})
    pq.write_table(table, home / "tables" / name, row_group_size=group, write_page_checksum=True)
    return home / "tables" / name


def noise(*shape: int, top: int = 256, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).integers(0, top, (N, *shape))
    x.reshape(-1)[0] = top - 1
    return x


def tensors(x: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x))


def multiset(rows: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in rows)


def content(prepared: Prepared) -> np.ndarray:
    return np.concatenate([load_split(prepared, split)[0] for split in SPLITS])


@pytest.mark.parametrize(
    ("shape", "as_stored", "axes"),
    [
        ((5, 7), (1, 5, 7), None),
        ((3, 5, 7), (3, 5, 7), None),
        ((5, 7, 3), (3, 5, 7), (0, 3, 1, 2)),
        ((5, 7, 1), (1, 5, 7), (0, 3, 1, 2)),
        ((1, 5, 3), (1, 5, 3), None),
        ((2, 5, 7), (2, 5, 7), None),
        ((9,), (9,), None),
    ],
)
def test_tensor_layouts(tmp_path: Path, shape: tuple, as_stored: tuple, axes: tuple | None) -> None:
    x = noise(*shape).astype(np.uint8)
    save(tmp_path, tensors(x))
    prepared = make(tmp_path)
    assert prepared.spec.shape == as_stored and prepared.spec.is_image == (len(shape) > 1)
    want = x if axes is None else x.transpose(axes)
    assert multiset(content(prepared)) == multiset(want.reshape(N, *as_stored))


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.uint8()), pa.list_(pa.int16(), 12)])
def test_lists_are_tokens_unless_shape_says_otherwise(tmp_path: Path, kind: pa.DataType) -> None:
    x = noise(12, top=100)
    save(tmp_path, pa.array(x.tolist(), kind))
    tokens = make(tmp_path)
    assert tokens.spec.shape == (12,) and tokens.spec.kind == "tokens" and tokens.spec.levels == 100
    images = make(tmp_path, shape=(3, 2, 2))
    assert images.spec.shape == (3, 2, 2) and images.spec.is_image
    assert multiset(content(images)) == multiset(content(tokens)) == multiset(x.astype(np.uint8))


def test_labels_and_more_than_256_levels(tmp_path: Path) -> None:
    x, labels = noise(8, top=1000), np.arange(N) % 4
    save(tmp_path, pa.array(x.tolist()), label=labels)
    prepared = make(tmp_path)
    assert prepared.spec.levels == 1000 and prepared.spec.classes == ("0", "1", "2", "3")
    assert content(prepared).dtype == np.int32
    want = {row.astype(np.int32).tobytes(): label for row, label in zip(x, labels, strict=True)}
    for split in SPLITS:
        assert all(want[row.tobytes()] == label for row, label in zip(*load_split(prepared, split), strict=True))


def test_the_only_tensor_column_is_used_for_any_name(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    table = pa.table({"name": ["a"] * N, "pixels": tensors(noise(4, 4).astype(np.uint8)), "label": [0, 1] * (N // 2)})
    pq.write_table(table, tmp_path / "tables" / "a.parquet")
    assert make(tmp_path).spec.shape == (1, 4, 4)


def test_files_of_ray_can_be_read_without_ray(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    metadata = {b"ARROW:extension:name": b"ray.data.arrow_tensor_v2", b"ARROW:extension:metadata": b"[5, 7]"}
    field = pa.field("x", pa.large_list(pa.uint8()), metadata=metadata)
    x = noise(5, 7).astype(np.uint8)
    column = pa.array(x.reshape(N, 35).tolist(), field.type)
    pq.write_table(pa.table([column], schema=pa.schema([field])), tmp_path / "tables" / "a.parquet")
    prepared = make(tmp_path)
    assert prepared.spec.shape == (1, 5, 7) and multiset(content(prepared)) == multiset(x)


def test_a_file_whose_metadata_is_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data.extensions  # noqa: F401  registers the types that would unpickle

    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    (tmp_path / "tables").mkdir()
    metadata = {b"ARROW:extension:name": b"ray.data.arrow_tensor_v2", b"ARROW:extension:metadata": pickle.dumps(Evil())}
    field = pa.field("x", pa.large_list(pa.uint8()), metadata=metadata)
    column = pa.array(np.zeros((N, 4), np.uint8).tolist(), field.type)
    pq.write_table(pa.table([column], schema=pa.schema([field])), tmp_path / "tables" / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet") as excinfo:
        make(tmp_path)
    assert "\n" not in str(excinfo.value) and not (tmp_path / "canary").exists()
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "1")
    with pytest.raises(UserError, match="it lets data files run code; unset it"):
        make(tmp_path)


def test_a_row_keeps_its_split_when_files_are_added(tmp_path: Path) -> None:
    save(tmp_path, tensors(noise(6).astype(np.uint8)), "b.parquet")
    single = make(tmp_path)
    before = {split: set(multiset(load_split(single, split)[0])) for split in SPLITS}
    save(tmp_path, tensors(noise(6, seed=1).astype(np.uint8)), "a.parquet")
    both = make(tmp_path)
    assert sum(both.rows.values()) == 2 * N
    assert all(before[split] <= set(multiset(load_split(both, split)[0])) for split in SPLITS)


def test_bad_rows_are_named_by_file_and_row_or_set_aside(tmp_path: Path) -> None:
    rows = noise(4).tolist()
    rows[3], rows[60], rows[61], rows[70] = None, [1, 2, 3], [1, 2, 3, -4], [1, None, 2, 3]
    labels = [0, 1] * (N // 2)
    labels[80] = None
    save(tmp_path, pa.array(rows, pa.list_(pa.int32())), label=labels)
    with pytest.raises(UserError, match=r"a\.parquet, row 3: a null"):
        make(tmp_path)
    with pytest.raises(UserError, match=r"row 80.*bad row 5, but at most 4 may"):
        make(tmp_path, skip=4)
    prepared = make(tmp_path, skip=5)
    assert prepared.quarantined == 5
    good = [rows[i] for i in range(N) if i not in (3, 60, 61, 70, 80)]
    assert multiset(content(prepared)) == multiset(np.array(good, np.uint8))


def test_a_damaged_row_group_is_named_and_its_rows_are_dropped(tmp_path: Path) -> None:
    path = save(tmp_path, tensors(noise(500).astype(np.uint8)))
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset + 200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.parquet, row 50: row group 1 cannot be read") as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="at most 49 may be left out"):
        make(tmp_path, skip=49)
    assert sum(make(tmp_path, skip=50).rows.values()) == N - 50


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    save(tmp_path, tensors(noise(6).astype(np.uint8)))
    path = save(tmp_path, tensors(noise(6).astype(np.uint8)), "b.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"b\.parquet: not a readable Parquet file"):
        make(tmp_path, skip=1000)


def test_files_that_disagree_are_named(tmp_path: Path) -> None:
    save(tmp_path, tensors(noise(6).astype(np.uint8)))
    save(tmp_path, tensors(noise(7).astype(np.uint8)), "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: column 'x' is .*a\.parquet"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1] * N, "y": [[1]] * N, "z": [[1]] * N}, "column 'x' is int64"),
        ({"y": [[1]] * N, "z": [[1]] * N}, "needs a column named x.*y .*, z "),
        ({"x": [[0.5]] * N}, "store integers"),
        ({"x": [[2**20]] * N}, "at most 65536 levels"),
        ({"x": [[1]] * N, "label": ["cat"] * N}, "'label' is string"),
        ({"x": pa.nulls(N, pa.list_(pa.int8()))}, "column 'x' is empty"),
        ({"x": pa.array([], pa.list_(pa.int8()))}, "column 'x' is empty"),
        ({"x": [[[1, 2]]] * N}, r"column 'x' is list<.*list<.*store flat lists or fixed-shape tensors"),
        ({"x": ["a"] * N, "y": [[1]] * N}, "column 'x' is string"),
        ({"x": [["a"]] * N}, "column 'x' is list<.*integers"),
        ({"x": [b"\x89PNG"] * N}, "column 'x' is binary.*image_folder:DIR"),
        ({"image": [{"bytes": b"\x89PNG", "path": "a"}] * N, "label": [0] * N}, r"needs a column.*image_folder:DIR"),
    ],
)
def test_unusable_columns_are_named(tmp_path: Path, columns: dict, message: str) -> None:
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "tables" / "a.parquet")
    with pytest.raises(UserError, match=message):
        make(tmp_path, skip=1000)


MEASURED = """
import resource, sys
from pathlib import Path
from gen_ray.datasets.prepare import prepare
peaks = []
for name in ("small", "large"):
    made = prepare(f"parquet:{name}.parquet", root=Path(sys.argv[1]), out=Path(sys.argv[1]) / "out", shard_bytes=2**21)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(peaks[1] - peaks[0], made.rows["train"])
"""


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    schema = pa.schema({"x": pa.fixed_shape_tensor(pa.uint8(), (3, 32, 32))})
    for name, groups in (("small", 8), ("large", 40)):  # 1 MiB per group
        with pq.ParquetWriter(tmp_path / f"{name}.parquet", schema, compression="none") as writer:
            for _ in range(groups):
                x = tensors(rng.integers(0, 256, (341, 3, 32, 32), np.uint8))
                writer.write_table(pa.table({"x": x}))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", MEASURED, tmp_path], env=environment, check=True, capture_output=True)
    grown, rows = map(int, ran.stdout.split())
    assert rows > 0.75 * 40 * 341 and grown < 16, f"{grown} MiB more for 32 MiB more of data"


@pytest.mark.parametrize(("labels", "row"), [([0] * 7 + [-1] + [1] * (N - 8), 7), ([1, None] + [0] * (N - 2), 1)])
def test_a_bad_label_is_reported_as_a_label(tmp_path: Path, labels: list, row: int) -> None:
    save(tmp_path, noise(4).tolist(), label=labels)
    with pytest.raises(UserError, match=rf"a\.parquet, row {row}: .*'label'"):
        make(tmp_path)
    assert make(tmp_path, skip=1).quarantined == 1


def test_brackets_in_the_names_of_folders_and_files_are_not_wildcards(tmp_path: Path) -> None:
    home = tmp_path / "run [1] *"
    home.mkdir()
    x = noise(4)
    save(home, x.tolist(), name="a[0].parquet")
    for pattern in ("a[0].parquet", "*.parquet", "a[[]0].parquet", "**/*.parquet"):
        assert multiset(content(make(home, pattern=pattern))) == multiset(x.astype(np.uint8))


@pytest.mark.parametrize("pattern", ["*.parquet", "**/*.parquet"])
def test_a_link_to_a_missing_file_is_named(tmp_path: Path, pattern: str) -> None:
    save(tmp_path, noise(4).tolist())
    (tmp_path / "tables" / "b.parquet").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"b\.parquet: a link to a missing file"):
        make(tmp_path, pattern=pattern)


def test_a_folder_is_not_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "tables" / "part.parquet").mkdir(parents=True)
    with pytest.raises(UserError, match=r"part\.parquet: a folder.* parquet:.*/\*\.parquet"):
        make(tmp_path, pattern="part.parquet")


@pytest.mark.parametrize(
    ("stated", "fault"),
    [
        (b"not json", "not a readable Parquet file|states no shape"),
        (b'[2,"a"]', "not a readable Parquet file|states no shape"),
        (b"[1e400]", "not a readable Parquet file|states no shape"),
        (b"[-2,-2]", r"not a readable Parquet file|examples of shape \(-2, -2\)"),
        (b"[" * 100_000, "not a readable Parquet file|states no shape"),
        (b"", "not a readable Parquet file|states no shape"),
    ],
)
def test_an_invalid_stated_shape_is_named(tmp_path: Path, stated: bytes, fault: str) -> None:
    """If Ray's column types are registered, they read the metadata instead."""
    metadata = {b"ARROW:extension:name": b"ray.data.arrow_tensor", b"ARROW:extension:metadata": stated}
    field = pa.field("x", pa.list_(pa.int64()), metadata=metadata)
    (tmp_path / "tables").mkdir()
    pq.write_table(
        pa.table([pa.array([[1, 2, 3, 4]] * N)], schema=pa.schema([field])), tmp_path / "tables" / "a.parquet"
    )
    with pytest.raises(UserError, match=rf"a\.parquet.*({fault})"):
        make(tmp_path)


@pytest.mark.parametrize("names", [("x", "label", "label"), ("x", "x", "y"), ("a", "b", "label")])
def test_a_column_that_occurs_twice_is_named(tmp_path: Path, names: tuple[str, str, str]) -> None:
    (tmp_path / "tables").mkdir()
    columns = [pa.array([[1, 2]] * N), pa.array([0] * N), pa.array([0] * N)]
    pq.write_table(pa.table(columns, names=list(names)), tmp_path / "tables" / "a.parquet")
    if len(set(names)) == 3:
        assert make(tmp_path).spec.shape == (2,)
        return
    with pytest.raises(UserError, match=r"a\.parquet: .*(2 columns 'label'|'x')"):
        make(tmp_path)


@pytest.mark.parametrize("shape", [[-2, -2], [0], [100_000, 100_000, 100_000]])
def test_an_impossible_shape_is_refused(shape: list[int]) -> None:
    with pytest.raises(UserError, match=r"shape.*must (be greater than or equal to 1|have at most 67,108,864 values)"):
        validated(SourceOptions, {"shape": shape})


def test_columns_without_lists_are_named_with_the_remedy_if_a_shape_is_given(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.5], "b": ["x"], "c": [3]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"column named x, or else only one .*levels-1 .*a \(double\), b \(string\), c"):
        prepare("parquet:t.parquet", root=tmp_path, out=tmp_path / "out", options=SourceOptions(shape=(3,)))
