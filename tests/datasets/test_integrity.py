"""Integrity of a prepared folder: it is unchanged to the bit, or refused with the name of the faulty file."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from gen_ray.datasets.prepare import BadRows, Prepared, SourceOptions, prepare
from gen_ray.datasets.rows import SPLITS
from gen_ray.datasets.shards import DataError, load_split
from gen_ray.errors import UserError


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Return a prepared folder with files of every kind."""
    home = tmp_path_factory.mktemp("pristine")
    (home / "images").mkdir()
    for i in range(60):
        Image.new("L", (4, 4), i).save(home / "images" / f"{i:02d}.png")
    (home / "images" / "zz.png").write_bytes(b"garbage")
    return prepare("image_folder:images", root=home, out=home, on_bad_row=BadRows(1), shard_bytes=320)


def read_all(folder: Path) -> None:
    """Read all data of a prepared folder."""
    prepared = Prepared.load(folder)
    for split in SPLITS:
        load_split(prepared, split)


def copy(pristine: Prepared, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine.folder, tmp_path / "copy"))


def test_the_manifest_has_the_format_of_sha256sum(pristine: Prepared) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "MANIFEST.sha256"], cwd=pristine.folder, check=True)
    listed = {line.split()[1] for line in (pristine.folder / "MANIFEST.sha256").read_text().splitlines()}
    assert listed | {"MANIFEST.sha256"} == {path.name for path in pristine.folder.iterdir()}
    assert {"spec.json", "quarantine.jsonl", "train-00001.parquet"} <= listed


def test_one_flipped_bit_in_any_file_is_refused_with_its_name(pristine: Prepared, tmp_path: Path) -> None:
    dice = random.Random(0)
    for name in sorted(path.name for path in pristine.folder.iterdir() if path.name != "MANIFEST.sha256"):
        for _ in range(5):
            folder = copy(pristine, tmp_path)
            content = bytearray((folder / name).read_bytes())
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            (folder / name).write_bytes(content)
            with pytest.raises(DataError, match=name) as caught:
                read_all(folder)
            assert "prepare again" in str(caught.value) and "\n" not in str(caught.value)
            shutil.rmtree(folder)


def test_any_flipped_bit_of_the_manifest_is_refused(pristine: Prepared, tmp_path: Path) -> None:
    folder, dice = copy(pristine, tmp_path), random.Random(1)
    original = (folder / "MANIFEST.sha256").read_bytes()
    for _ in range(300):
        content = bytearray(original)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (folder / "MANIFEST.sha256").write_bytes(content)
        with pytest.raises(UserError, match=str(folder)):
            read_all(folder)


@pytest.mark.parametrize("name", ["train-00000.parquet", "test-00000.parquet", "spec.json", "quarantine.jsonl"])
def test_missing_empty_and_truncated_files_are_refused_with_their_names(
    pristine: Prepared, tmp_path: Path, name: str
) -> None:
    folder = copy(pristine, tmp_path)
    content = (folder / name).read_bytes()
    for wrong in (b"", content[:-1], content[: len(content) // 2], content + b"\0"):
        (folder / name).write_bytes(wrong)
        with pytest.raises(DataError, match=name):
            read_all(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: missing"):
        read_all(folder)


def test_a_shard_that_disappears_after_loading_is_refused_with_its_name(pristine: Prepared, tmp_path: Path) -> None:
    prepared = Prepared.load(copy(pristine, tmp_path))
    prepared.shards("train")[0].path.unlink()
    with pytest.raises(DataError, match=r"train-00000.parquet: missing"):
        load_split(prepared, "train")


def test_every_truncation_of_the_manifest_is_refused(pristine: Prepared, tmp_path: Path) -> None:
    folder = copy(pristine, tmp_path)
    lines = (folder / "MANIFEST.sha256").read_bytes().splitlines(keepends=True)
    assert lines[-1].endswith(b"quarantine.jsonl\n")
    for n in range(len(lines) - 1):
        for tail in (b"", lines[n][:40]):
            (folder / "MANIFEST.sha256").write_bytes(b"".join(lines[:n]) + tail)
            with pytest.raises(DataError, match="MANIFEST"):
                Prepared.load(folder)
    (folder / "MANIFEST.sha256").unlink()
    with pytest.raises(UserError, match="not a prepared data set"):
        Prepared.load(folder)


def test_a_folder_without_manifest_is_prepared_again(tmp_path: Path) -> None:
    first = prepare("digits", out=tmp_path)
    (first.folder / "MANIFEST.sha256").unlink()
    (first.folder / "train-00000.parquet").unlink()
    assert prepare("digits", out=tmp_path) == first
    read_all(first.folder)


def test_an_unknown_split_is_named(pristine: Prepared) -> None:
    with pytest.raises(UserError, match="did you mean 'train'"):
        pristine.shards("trian")
    with pytest.raises(UserError, match="did you mean 'train'"):
        load_split(pristine, "trian")


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_ray.datasets.prepare.FORMAT", 2)
    with pytest.raises(DataError, match="format 2"):
        prepare("digits", out=tmp_path, options=SourceOptions())
