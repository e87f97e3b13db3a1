"""Text data: it can be read back for any alphabet."""

import codecs
from pathlib import Path

import numpy as np
import pytest

from gen_ray.datasets import characters
from gen_ray.datasets import source as sources
from gen_ray.datasets import text as texts
from gen_ray.datasets.prepare import Prepared, SourceOptions, prepare
from gen_ray.datasets.rows import SPLITS, Batch, split_indices
from gen_ray.datasets.shards import load_split
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import instances
from gen_ray.errors import UserError


def make(home: Path, content: bytes, length: int = 16) -> Prepared:
    (home / "book.txt").write_bytes(content)
    return prepare("text:book.txt", root=home, out=home / "out", options=SourceOptions(length=length))


def decoded(prepared: Prepared, length: int) -> str:
    """Return the text of all chunks in the order of the file."""
    n = sum(prepared.rows.values())
    places = split_indices(Batch(x=np.empty(0), keys=[str(i) for i in range(n)]))
    tokens = np.empty((n, length), np.int64)
    for index, split in enumerate(SPLITS):
        tokens[places == index] = load_split(prepared, split)[0]
    return "".join(prepared.spec.alphabet[token] for token in tokens.reshape(-1))


@pytest.mark.parametrize("letters", ["ab \n\t", "aé€𝄞", "".join(map(chr, range(0x4E00, 0x4E00 + 700)))])
@pytest.mark.parametrize("block", [7, 2**20])
def test_text_round_trips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: str, block: int) -> None:
    monkeypatch.setattr(texts, "BATCH_VALUES", block)  # characters cross the borders of blocks
    content = letters + "".join(np.random.default_rng(0).choice(list(letters), 3000))
    prepared = make(tmp_path, content.encode())
    assert decoded(prepared, 16) == content[: len(content) // 16 * 16]
    assert prepared.spec.alphabet == "".join(sorted(set(letters))) and prepared.spec.kind == "tokens"
    assert prepared.spec.levels == len(letters) and prepared.spec.shape == (16,)
    assert load_split(prepared, "train")[0].dtype == (np.uint8 if len(letters) <= 256 else np.int32)


def test_text_that_grows_keeps_its_splits(tmp_path: Path) -> None:
    short = "".join(np.random.default_rng(1).choice(list("abcdef"), 1600))
    before = make(tmp_path, short.encode())
    rows = {split: load_split(before, split)[0] for split in SPLITS}
    after = make(tmp_path, (short + short[::-1]).encode())
    assert all(np.array_equal(load_split(after, split)[0][: len(rows[split])], rows[split]) for split in SPLITS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few"),
        (b"aaaa" * 100, "too few"),
        (b"ab", "too few"),
        (b"abcdefg" * 50 + b"\xc3(" + b"abc", "byte 350 is not UTF-8"),
        (b"abcd" * 25 + "é".encode()[:1], "byte 100 is not"),
    ],
)
def test_unusable_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    for block in (3, sources.BATCH_VALUES):
        monkeypatch.setattr(texts, "BATCH_VALUES", block)
        with pytest.raises(UserError, match=message):
            make(tmp_path, content)


LINES = "One line.\nAnother: é€𝄞\n\nThe last one"
FORMS = {
    "unix": LINES.encode(),
    "dos": LINES.replace("\n", "\r\n").encode(),
    "old mac": LINES.replace("\n", "\r").encode(),
    "mainframe": LINES.replace("\n", "\x85").encode(),
    "line separators": LINES.replace("\n", "\u2028").encode(),
    "paragraph separators": LINES.replace("\n", "\u2029").encode(),
    "mixed": LINES.replace("\n", "\r\n", 1).replace("\n\n", "\n\r").encode(),
    "utf-8 mark": codecs.BOM_UTF8 + LINES.encode(),
    "concatenated marks": codecs.BOM_UTF8 + LINES[:9].encode() + codecs.BOM_UTF8 + LINES[9:].encode(),
    "utf-16": LINES.replace("\n", "\r\n").encode("utf-16"),
    "utf-16-be": codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"),
    "utf-32": LINES.encode("utf-32"),
    "utf-32-be": codecs.BOM_UTF32_BE + LINES.encode("utf-32-be"),
}


@pytest.mark.parametrize("block", [1, 2, 7, 2**20])
@pytest.mark.parametrize("form", FORMS)
def test_files_of_all_systems_are_read_equally_by_training_and_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, block: int
) -> None:
    monkeypatch.setattr(texts, "BATCH_VALUES", block)
    (tmp_path / "book.txt").write_bytes(FORMS[form])
    source = texts.Text("book.txt", tmp_path, SourceOptions(length=len(LINES)))
    spec = source.spec()
    assert spec.alphabet == "".join(sorted(set(LINES)))
    trained = np.concatenate([batch.x for batch in source.rows(spec)])
    assert "".join(spec.alphabet[token] for token in trained[0]) == LINES and len(trained) == 1
    assert (instances.read(tmp_path / "book.txt", spec).numpy() == trained).all()
    assert instances.dropped_part(tmp_path / "book.txt", spec) == ""
    typed, _ = instances.parse_masked_text(characters.plain(FORMS["dos"].decode()[:-1]), spec, "#")
    assert typed.shape == (1, len(LINES))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (codecs.BOM_UTF16_LE + "ab".encode("utf-16-le") + b"\x00\xd8", "byte 6 is not UTF-16"),
        (codecs.BOM_UTF8 + b"abc\xff", "byte 6 is not UTF-8"),
        (None, "a folder, not a file"),
    ],
)
def test_training_and_score_refuse_the_same_files(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "book.txt"
    file.mkdir() if content is None else file.write_bytes(content)
    spec = DataSpec(name="x", kind="tokens", shape=(2,), levels=3, alphabet="abc")
    source = texts.Text("book.txt", tmp_path, SourceOptions(length=2))
    for read in (source.spec, lambda: list(source.rows(spec)), lambda: instances.read(file, spec)):
        with pytest.raises(UserError, match=f"book.txt: {why}"):
            read()
