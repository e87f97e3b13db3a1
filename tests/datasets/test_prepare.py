"""Preparation of data: no row is lost or moved, nothing is repeated, and no partial result is left."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from gen_ray.datasets.digits import Digits
from gen_ray.datasets.prepare import BadRows, Prepared, SourceOptions, prepare
from gen_ray.datasets.rows import SPLITS, Batch, split_indices
from gen_ray.datasets.shards import load_split, read_shard, to_numpy
from gen_ray.datasets.text import Text
from gen_ray.errors import RunError, UserError


def everything(prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Return x and labels of all splits."""
    xs, labels = zip(*(load_split(prepared, split) for split in SPLITS), strict=True)
    return np.concatenate(xs), np.concatenate(labels)


def test_digits_equal_those_of_scikit_learn_to_the_bit(tmp_path: Path) -> None:
    prepared = prepare("digits", out=tmp_path)
    digits = load_digits()
    places = split_indices(Batch(x=digits.images, keys=[str(i) for i in range(1797)]))
    for index, split in enumerate(SPLITS):
        x, labels = load_split(prepared, split)
        assert np.array_equal(x[:, 0], digits.images[places == index])  # in the order of the source
        assert np.array_equal(labels, digits.target[places == index])
    assert sum(prepared.rows.values()) == 1797
    assert prepared.spec.levels == 17 and prepared.spec.shape == (1, 8, 8) and len(prepared.spec.classes) == 10


def test_every_row_is_in_exactly_one_split(tmp_path: Path) -> None:
    x, _ = everything(prepare("digits", out=tmp_path))
    images = load_digits().images.astype(np.uint8)
    assert sorted(row.tobytes() for row in x) == sorted(row.tobytes() for row in images)


def test_fractions_are_80_10_10_or_one_twelfth_of_the_official_training_rows() -> None:
    keys = [f"train/{i}" for i in range(60_000)]
    free = np.bincount(split_indices(Batch(x=np.empty(0), keys=keys)), minlength=3) / len(keys)
    assert free == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    official = np.bincount(split_indices(Batch(x=np.empty(0), keys=keys, official="train")), minlength=3)
    assert official[1] == pytest.approx(5_000, abs=200) and official[2] == 0
    assert set(split_indices(Batch(x=np.empty(0), keys=keys, official="test"))) == {2}


def test_shards_are_dense_ordered_and_readable_by_any_arrow_tool(tmp_path: Path) -> None:
    prepared = prepare("digits", out=tmp_path, shard_bytes=64 * 100)
    shards = prepared.shards("train")
    assert [shard.rows for shard in shards[:-1]] == [100] * (len(shards) - 1)
    rows = np.concatenate([to_numpy(read_shard(shard), "row") for shard in shards])
    assert np.array_equal(rows, np.arange(prepared.rows["train"]))
    assert [shard.first_row for shard in shards] == [100 * i for i in range(len(shards))]
    table = pq.read_table(shards[1].path)
    assert table.schema.field("x").type == pa.fixed_shape_tensor(pa.uint8(), (1, 8, 8))
    assert table.schema.field("label").type == pa.int32() and table.schema.field("row").type == pa.int64()
    assert pq.ParquetFile(shards[1].path).num_row_groups == 1


def test_to_numpy_is_zero_copy_also_for_slices_and_empty_arrays(tmp_path: Path) -> None:
    table = read_shard(prepare("digits", out=tmp_path).shards("test")[0])
    x = to_numpy(table)
    assert not x.flags.owndata and not x.flags.writeable
    assert np.array_equal(to_numpy(table.slice(7, 5)), x[7:12])
    assert np.array_equal(to_numpy(pa.concat_tables([table.slice(3, 2), table.slice(0, 3)])), x[[3, 4, 0, 1, 2]])
    assert to_numpy(table.slice(0, 0)).shape == (0, 1, 8, 8)


def test_shard_size_changes_neither_rows_nor_splits(tmp_path: Path) -> None:
    few, many = prepare("digits", out=tmp_path), prepare("digits", out=tmp_path, shard_bytes=64 * 50)
    assert all(np.array_equal(a, b) for a, b in zip(everything(few), everything(many), strict=True))
    assert few.folder != many.folder and len(many.shards("train")) == -(-many.rows["train"] // 50)


def test_the_fingerprint_depends_on_the_content(tmp_path: Path) -> None:
    first, second = prepare("digits", out=tmp_path / "a"), prepare("digits", out=tmp_path / "b")
    coarse = prepare("digits", out=tmp_path / "a", options=SourceOptions(levels=2))
    assert first.fingerprint == second.fingerprint != coarse.fingerprint
    assert np.array_equal(everything(coarse)[0], everything(first)[0].astype(int) * 2 // 17)
    assert coarse.spec.levels == 2


def test_a_second_call_reads_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare("digits", out=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    monkeypatch.setattr(Digits, "rows", None)
    monkeypatch.setattr(Digits, "spec", None)
    assert prepare("digits", out=tmp_path) == first == Prepared.load(first.folder)
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before


def test_a_changed_source_is_prepared_again(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("to be or not to be " * 100)
    options = SourceOptions(length=8)
    first = prepare("text:book.txt", root=tmp_path, out=tmp_path, options=options)
    file.write_text("to be or not to be?" * 100)
    assert prepare("text:book.txt", root=tmp_path, out=tmp_path, options=options).fingerprint != first.fingerprint


KILLED = """
import os, signal, sys
from pathlib import Path
from gen_ray.datasets.prepare import SourceOptions, prepare
here = Path(sys.argv[1])
prepare("text:book.txt", root=here, out=here / "out", options=SourceOptions(length=64), shard_bytes=2**16,
        progress=lambda rows: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_prepare_is_never_taken_for_a_finished_one(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("all work and no play " * 100_000)
    repo = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(repo)}
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = list((tmp_path / "out").iterdir())
    assert [path.name.startswith(".book-") for path in left] == [True] and list(left[0].glob("train-*"))
    with pytest.raises(UserError):
        Prepared.load(left[0])
    options = SourceOptions(length=64)
    done = prepare("text:book.txt", root=tmp_path, out=tmp_path / "out", options=options, shard_bytes=2**16)
    assert list((tmp_path / "out").iterdir()) == [done.folder]
    assert sum(done.rows.values()) == 2_100_000 // 64


def test_leftovers_of_a_killed_prepare_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".other-0123456789ab.partial").mkdir()
    prepared = prepare("digits", out=tmp_path)
    assert list(tmp_path.iterdir()) == [prepared.folder]


def test_finding_prepared_data_imports_no_large_packages(tmp_path: Path) -> None:
    prepare("digits", out=tmp_path)
    program = (
        "import sys; from pathlib import Path; from gen_ray.datasets.prepare import prepare;"
        f"prepare('digits', out=Path({str(tmp_path)!r}));"
        "print([name for name in ('torch', 'torchvision', 'sklearn', 'ray', 'mlflow') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


def test_a_failed_prepare_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "book.txt").write_bytes(b"abc" * 500_000 + b"\xff")
    with pytest.raises(UserError, match="byte 1500000 is not UTF-8"):
        prepare("text:book.txt", root=tmp_path, out=tmp_path / "out")
    monkeypatch.setattr(Text, "rows", lambda self, spec: iter([1 / 0]))
    (tmp_path / "book.txt").write_bytes(b"abc" * 500)
    with pytest.raises(ZeroDivisionError):
        prepare("text:book.txt", root=tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"train-00000.parquet.*No space left"):
        prepare("digits", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_out_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be used as a folder"):
        prepare("digits", out=tmp_path / "file")


def test_several_processes_at_once_make_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: prepare("digits", out=tmp_path), range(4)))
    assert all(prepared == made[0] for prepared in made)
    assert list(tmp_path.iterdir()) == [made[0].folder]


def test_spec_json_has_the_provenance_of_the_data(tmp_path: Path) -> None:
    prepared = prepare("digits", out=tmp_path, options=SourceOptions(levels=4))
    about = json.loads((prepared.folder / "spec.json").read_text())
    assert about["source"] == "digits" and about["options"]["levels"] == 4 and about["quarantined"] == 0
    assert about["rows"] == prepared.rows and about["fingerprint"] == prepared.fingerprint
    assert about["spec"] == prepared.spec.model_dump(mode="json")


def test_progress_counts_every_row(tmp_path: Path) -> None:
    counts: list[int] = []
    prepare("digits", out=tmp_path, progress=counts.append)
    assert sum(counts) == 1797


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("digit", {}, r"did you mean 'digits'\?"),
        ("text", {}, "write text:FILE"),
        ("text:", {}, "write text:FILE"),
        ("digits:x", {}, "write digits$"),
        ("text:nowhere.txt", {}, r"nowhere\.txt: no such file"),
        ("image_folder:nowhere", {}, "nowhere: no such folder"),
        ("parquet:nowhere/*.parquet", {}, "no Parquet file"),
        ("digits", {"length": 3}, r"`option=length`: .*has no effect on source 'digits' .*text"),
        ("digits", {"image_size": 3}, "`option=image_size`: .*has no effect"),
        ("digits", {"levels": 17}, "`option=levels=17`: .*has no effect"),
    ],
)
def test_an_error_is_named(tmp_path: Path, source: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare(source, root=tmp_path, out=tmp_path, options=SourceOptions(**options))
    assert "\n" not in str(caught.value)


def test_too_few_rows_for_three_splits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab" * 8)
    with pytest.raises(UserError, match="split empty"):
        prepare("text:a.txt", root=tmp_path, out=tmp_path, options=SourceOptions(length=8))


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        ("text:a.txt", b"abc", r"3 characters.*`option=length=N` \(data.options.length=N\), N at most 3"),
        ("text:a.txt", b"", "0 characters.*at least two different characters"),
        ("text:a.txt", b"\xffabc", "byte 0 is not UTF-8; store the text as UTF-8 .*UTF-16 and UTF-32 are read after a"),
        ("xlsx:a.xlsx", b"1,2", "unknown source 'xlsx': convert it to Parquet, .* a column x .*known: digits"),
        ("tsv:a.tsv", b"1,2", "unknown source 'tsv': write csv:FILE .*known: digits"),
        ("csv:a.csv", b"1,2", "a.csv: a header without rows; provide more"),
        ("pdf:a.pdf", b"", "unknown source 'pdf': (did|known)"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_with_the_remedy(
    tmp_path: Path, source: str, content: bytes, expected: str
) -> None:
    (tmp_path / source.partition(":")[2]).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        prepare(source, root=tmp_path, out=tmp_path / "out")


@pytest.mark.parametrize("text", ["skp", "skip", "skip:-1", "5"])
def test_a_malformed_limit_of_bad_rows_names_the_option(text: str) -> None:
    with pytest.raises(UserError, match=rf"`on_bad_row='{text}'`: write stop, or skip:K"):
        BadRows.parse(text)


def test_a_bad_row_is_refused_with_the_option_and_the_key_that_allow_it(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / "images" / "a" / f"{number}.png")
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"`on_bad_row=skip:K` of gen-ray prepare, or data.on_bad_row=skip:K in"):
        prepare("image_folder:images", root=tmp_path, out=tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_refused_with_the_key_that_names_it() -> None:
    with pytest.raises(UserError, match=r"/proc/x/data: cannot be used as a .*storage\.root \(argument `storage`\)"):
        prepare("digits", out=Path("/proc/x/data"))
