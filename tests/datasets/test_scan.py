"""Folders with mostly unrelated files: their scan ends after a limited number of entries with one line."""

import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gen_ray.datasets import image_layout, scan
from gen_ray.datasets.image_folder import ImageFolder
from gen_ray.datasets.parquet import ParquetFiles
from gen_ray.datasets.source import SourceOptions
from gen_ray.datasets.text import Text
from gen_ray.errors import UserError


def images(folder: Path, n: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / f"{i}.png")


def tables(folder: Path, n: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pq.write_table(pa.table({"x": [[1, 2]]}), folder / f"{i}.parquet")


def others(folder: Path, n: int) -> None:
    """Write n empty files of another kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (folder / f"{i}.txt").touch()


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_OTHERS", 20)


def test_a_folder_of_other_files_is_refused_with_its_name_and_the_remedy(tmp_path: Path) -> None:
    others(tmp_path / "other", 40)
    images(tmp_path / "pets", 1)
    with pytest.raises(UserError, match=r"\d images among \d+ .*; name the folder"):
        _ = ImageFolder(str(tmp_path), None, SourceOptions()).files
    others(tmp_path / "pets" / "notes", 5)
    images(tmp_path / "pets" / "cat", 9)
    (tmp_path / "pets" / "0.png").unlink()
    assert len(ImageFolder(str(tmp_path / "pets"), None, SourceOptions()).files) == 9


def test_a_scan_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the whole disk no more entries than the limit are read, also in folders without files."""
    files = []
    count = scan.Scan.count
    monkeypatch.setattr(scan.Scan, "count", lambda self, *, found: files.append(found) or count(self, found=found))
    for source in (ImageFolder("/", None, SourceOptions()), ParquetFiles("/**/*.parquet", None, SourceOptions())):
        with pytest.raises(UserError, match=r"^/: a scan stopped at"):
            _ = source.files
    assert len(files) < 2 * (20 + scan.OTHERS_PER_FILE * 1000)


def test_many_images_allow_many_other_files(tmp_path: Path) -> None:
    images(tmp_path / "cat", 30)
    others(tmp_path / "cat", 19)
    assert len(ImageFolder(str(tmp_path), None, SourceOptions()).files) == 30


def test_links_below_class_folders_do_not_lead_out_of_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path / "pets" / "cat" / "near", 3)
    images(tmp_path / "pets" / "dog", 3)
    images(tmp_path / "elsewhere", 5)
    deep = tmp_path / "pets" / "cat" / "near"
    os.symlink(tmp_path / "elsewhere", deep / "out")
    os.symlink(tmp_path / "pets" / "dog", deep / "within")
    os.symlink(tmp_path / "elsewhere", tmp_path / "pets" / "bird")  # a class in another folder
    with caplog.at_level(logging.WARNING):
        found = image_layout.entries(tmp_path / "pets")
    assert sorted({str(entry.file.parent) for entry in found}) == ["bird", "cat/near", "cat/near/within", "dog"]
    assert f"1 links to folders outside are not followed, e.g. {deep / 'out'}" in caplog.text


def test_a_pattern_over_other_files_is_refused_and_follows_no_links(tmp_path: Path) -> None:
    tables(tmp_path / "data" / "a", 2)
    tables(tmp_path / "data" / ".hidden", 1)
    tables(tmp_path / "elsewhere", 1)
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "link")
    found = {p: ParquetFiles(f"{tmp_path}/data/{p}", None, SourceOptions()).files for p in ("**/*.parquet", "*/*")}
    assert [file.name for file in found["**/*.parquet"]] == ["0.parquet", "1.parquet"]
    assert len(found["*/*"]) == 3  # one level of links, as in a shell
    others(tmp_path / "data" / "b", 60)
    with pytest.raises(UserError, match=r"data: .*\d files .*among \d+ "):
        _ = ParquetFiles(f"{tmp_path}/data/**/*.parquet", None, SourceOptions()).files
    assert len(ParquetFiles(f"{tmp_path}/data/a/*.parquet", None, SourceOptions()).files) == 2


def test_a_text_that_is_a_folder_is_refused_without_a_scan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder, not a file"):
        Text(str(tmp_path), None, SourceOptions()).signature()
