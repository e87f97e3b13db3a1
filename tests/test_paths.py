"""Parsing of paths in every form that users write."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gen_ray.datasets.prepare import SourceOptions, prepare
from gen_ray.datasets.prepared import Prepared
from gen_ray.errors import UserError
from gen_ray.storage import paths as storage
from gen_ray.storage import user_paths
from gen_ray.tracking import database
from tests.conftest import CommandResult

Run = Callable[..., CommandResult]
ODD = (
    *("a b", "a[1]", "a*b", "a?b", "a#b", "a%41b", "a&b=c", "a;b", "a:b", "$HOME"),
    *("a'b\"c", "{a}", "ü", "a\\b", "~x", "!a", "- a"),
)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/a b/c", "/a b/c"),
        ("file:///a%20b/c", "/a b/c"),
        ("file:///a b/[c]?d#e", "/a b/[c]?d#e"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("~/a", str(Path.home() / "a")),
        ("./~x", "~x"),
        ("a/b", "a/b"),
    ],
)
def test_paths_and_file_uris(text: str, path: str) -> None:
    assert user_paths.local(text) == Path(path) and storage.resolve(text) == Path(path).absolute()


@pytest.mark.parametrize("text", ["file://host/a", "file:a", "file://", "~nobody-of-that-name/a"])
def test_other_hosts_and_homes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"file:///PATH|unknown user"):
        user_paths.local(text)


@pytest.mark.parametrize("by", ["argument", "current folder", "file URI"])
def test_a_folder_whose_name_is_not_text_is_refused(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    monkeypatch.chdir(odd if by == "current folder" else tmp_path)
    text = {"argument": f"{odd}/s", "current folder": "s", "file URI": f"file://{odd}/s"}[by]
    with pytest.raises(UserError, match=r"caf\\udce9/s': has bytes that are not text in UTF-8; rename the folder"):
        storage.resolve(text)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/a[1]", "s3://bucket/a*", "s3://bucket/a?b", "s3://bucket/a#b", "s3://b/a%20"]
)
def test_object_stores_refuse_patterns(uri: str) -> None:
    with pytest.raises(UserError, match="cannot be in the URI of an object store"):
        storage.resolve(uri)


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("file:///a%20b", "/a b"),
        ("--out=file:///a", "--out=/a"),
        ("data.source=text:file:///a", "data.source=text:file:///a"),
        ("--out", "--out"),
        ("s3://a/b", "s3://a/b"),
    ],
)
def test_words_of_the_command_line_are_parsed(word: str, read: str) -> None:
    assert user_paths.without_file_uri(word) == read


@pytest.mark.parametrize("name", ODD)
def test_data_are_prepared_in_and_from_folders_of_any_name(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    (home / "book.txt").write_text("abcdefgh" * 200)
    for source in (f"text:{home}/book.txt", f"text:{(home / 'book.txt').as_uri()}"):
        made = prepare(source, out=home / "out", options=SourceOptions(length=8))
        assert Prepared.load(made.folder).rows == made.rows and sum(made.rows.values()) == 200
    assert database.file_of(database.uri_of(home / "mlflow.db")) == home / "mlflow.db"


def test_prepare_writes_below_the_storage(gen_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(storage.ENVIRONMENT, str(tmp_path / "shared"))
    result = gen_ray("prepare", "digits")
    assert result.code == 0 and result.out.startswith(str(tmp_path / "shared" / "data" / "digits-"))
    for word, home in (("--storage", tmp_path / "a b" / "data"), ("--out", tmp_path / "a b")):
        result = gen_ray("prepare", "digits", word, f"file://{tmp_path}/a%20b")
        assert result.code == 0 and result.out.startswith(str(home / "digits-")), result
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a b", "shared"]


def test_a_job_may_not_prepare_into_its_own_copy_of_the_files(
    gen_ray: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / f"{storage.PACKAGE}1"
    home.mkdir()
    monkeypatch.chdir(home)
    for words in ((), ("--out", "data")):
        result = gen_ray("prepare", "digits", *words)
        assert result.code == 2 and "in the job's copy of its files" in result.fault
    assert not [*home.iterdir()]
