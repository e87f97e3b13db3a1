"""Metrics use a random choice of rows over a whole split, for any order of storage."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gen_ray.cluster.evaluation.evaluate import reference_of
from gen_ray.cluster.training.train import report_large_batch, report_unmeasured
from gen_ray.datasets import random_rows
from gen_ray.datasets.prepare import Prepared, SourceOptions, prepare
from gen_ray.datasets.random_rows import random_row_numbers, read_random_rows, read_rows
from gen_ray.datasets.shards import load_split, read_shard
from gen_ray.engine.evaluation import features
from gen_ray.engine.evaluation.evaluate import ReferenceData
from gen_ray.errors import UserError
from gen_ray.experiment import parse

CLASSES = 4
EACH = 150


@pytest.mark.parametrize("at_once", [1, 7, 2**20])
@pytest.mark.parametrize("n", [0, 1, 10, 99, 100, 1000])
def test_a_choice_has_no_repetition_and_is_a_prefix_of_a_larger_one(
    n: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = random_row_numbers(100, 100)
    monkeypatch.setattr(random_rows, "KEYS_PER_BLOCK", at_once)
    found = random_row_numbers(100, n)
    assert np.array_equal(found, whole[:n]) and sorted(whole) == list(range(100))
    assert not np.array_equal(random_row_numbers(100, 100, seed=1), whole)


def test_every_row_is_chosen_equally_often() -> None:
    counts = Counter(int(row) for seed in range(2000) for row in random_row_numbers(20, 5, seed=seed))
    expected, deviation = 2000 * 5 / 20, (2000 * 0.25 * 0.75) ** 0.5
    assert all(abs(counts[row] - expected) < 5 * deviation for row in range(20))


def images(label: int, n: int) -> np.ndarray:
    """Return images (n, 4, 4) whose values determine their class."""
    return np.random.default_rng(label).integers(60 * label, 60 * label + 20, (n, 4, 4)).astype(np.uint8)


def image_folder(folder: Path) -> str:
    for label in range(CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)
        for i, pixels in enumerate(images(label, EACH)):
            Image.fromarray(pixels).save(folder / f"class-{label}" / f"{i:03d}.png")
    return f"image_folder:{folder}"


def sorted_parquet(folder: Path) -> str:
    folder.mkdir(parents=True)
    x = np.concatenate([images(label, EACH) for label in range(CLASSES)]).reshape(CLASSES * EACH, 16)
    table = pa.table(
        {"x": pa.array(x.tolist(), pa.list_(pa.uint8(), 16)), "label": np.repeat(np.arange(CLASSES), EACH)}
    )
    pq.write_table(table, folder / "part-0.parquet")
    return f"parquet:{folder}/part-0.parquet"


@pytest.fixture(params=[image_folder, sorted_parquet])
def by_class(request: pytest.FixtureRequest, tmp_path: Path) -> Prepared:
    """Return data that are stored by class in many shards."""
    source = request.param(tmp_path / "raw")
    options = SourceOptions(shape=(1, 4, 4)) if request.param is sorted_parquet else None
    return prepare(source, out=tmp_path / "s" / "data", options=options, shard_bytes=40 * 16)


def test_a_few_chosen_rows_have_all_classes_although_the_first_rows_have_one(by_class: Prepared) -> None:
    _, first = load_split(by_class, "train")
    x, labels = read_random_rows(by_class, "train", 60)
    assert first is not None and labels is not None and len(set(first[:60])) == 1
    assert set(labels) == set(range(CLASSES)) and min(Counter(labels.tolist()).values()) >= 5
    assert (x.reshape(60, -1).min(1) // 60 == labels).all(), "rows and labels belong together"


def test_rows_come_in_the_requested_order_from_only_the_needed_shards(
    by_class: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(random_rows, "read_shard", lambda shard: read.append(shard.path.name) or read_shard(shard))
    whole, labels = load_split(by_class, "train")
    rows = np.array([203, 5, 3, 201])
    x, found = read_rows(by_class, "train", rows)
    assert labels is not None and np.array_equal(x, whole[rows]) and np.array_equal(found, labels[rows])
    assert len(read) == 2 < len(by_class.shards("train")) and len(read) == len(set(read))


def references(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> ReferenceData:
    """Return reference data for metrics with few rows."""
    monkeypatch.setattr(features, "MAX_STEPS", 60)
    monkeypatch.setattr("gen_ray.cluster.evaluation.evaluate.REFERENCE_ROWS", 48)
    return reference_of(prepared)


def test_reference_data_are_chosen_from_the_whole_split(by_class: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    found = references(by_class, monkeypatch)
    assert found.extractor is not None and found.rows_seed == random_rows.SEED
    for split in (found.train, found.test):
        classes = Counter((split.flatten(1).amin(1) // 60).tolist())
        assert set(classes) == set(range(CLASSES)) and max(classes.values()) < len(split) / 2
    again = references(by_class, monkeypatch)
    assert (again.train == found.train).all() and again.extractor.name == found.extractor.name


def test_an_extractor_is_trained_on_all_classes_even_where_the_split_is_too_large(
    by_class: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "MAX_BYTES", 64 * by_class.spec.dims)
    trained_on: list[features.Labelled] = []
    learn = features.train
    monkeypatch.setattr(features, "train", lambda spec, *data: trained_on.append(data) or learn(spec, *data))
    references(by_class, monkeypatch)
    [(x, labels)] = trained_on
    assert len(x) == 64 and set(labels.tolist()) == set(range(CLASSES))


def test_labels_of_a_single_class_train_no_extractor_and_are_reported_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "raw" / "only").mkdir(parents=True)
    for i, pixels in enumerate(images(1, EACH)):
        Image.fromarray(pixels).save(tmp_path / "raw" / "only" / f"{i:03d}.png")
    prepared = prepare(f"image_folder:{tmp_path / 'raw'}", out=tmp_path / "s" / "data")
    assert reference_of(prepared).extractor is None and not (tmp_path / "s" / "extractors").exists()
    with caplog.at_level("WARNING"):
        report_unmeasured(prepared, needed="eval/bits_per_dim")
    assert [record.message for record in caplog.records] == [
        "raw: an extractor cannot be trained on labels of a single class: no Fréchet distance, precision and recall"
    ]
    for metric in ("eval/frechet_distance", "eval/precision"):
        with pytest.raises(UserError, match=f"metric {metric}: .*; raw: .*single class"):
            report_unmeasured(prepared, needed=metric)


@pytest.mark.parametrize(("size", "line"), [(1462, ""), (100_000, "more than the 1462 training rows.* has 1 step$")])
def test_a_batch_of_more_rows_than_the_split_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, line: str
) -> None:
    experiment = parse({"name": "a", "family": "vae", "data": {"batch_size": size}})
    report_large_batch(experiment, prepare("digits", out=tmp_path))
    assert bool(caplog.messages) == bool(line) and re.search(line, " ".join(caplog.messages))
