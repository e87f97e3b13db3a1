"""The settings of the reader of a CSV file with the columns of a model, by default those of the training data."""

import codecs
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from gen_ray.tabular.delimited import MARKS, CsvFile, CsvOptions
from gen_ray.tabular.text_streams import opened, text_codec, translated

CHUNK_BYTES = 2**20
LETTERS = "abc"
"""Letters that most encodings write like ASCII."""


def file_options(
    path: Path, columns: Collection[str], trained: CsvOptions, *, delimiter: str | None, encoding: str | None
) -> CsvOptions:
    """Return the settings of a file with some of the columns: given ones, else those of the training data.

    The latter are not used where the file shows that it is written differently, as files of ``gen-ray sample`` may be:
    its first bytes mark another encoding, its characters are those of UTF-8 (see ``_is_utf8``), or with this delimiter
    it has none of the columns. Raise UserError if the file cannot be read.
    """
    used = trained if encoding is None else replace(trained, encoding=encoding)
    with translated(path, trained.encoding_as("latin-1")):
        if encoding is None and trained.encoding and (_is_marked(path) or _is_utf8(path, trained.encoding)):
            used = replace(used, encoding="")
    if delimiter is not None:
        return replace(used, delimiter=delimiter)
    if trained.delimiter is not None and not set(columns) & set(CsvFile(path, used).names):
        return replace(used, delimiter=None)
    return used


def _is_marked(path: Path) -> bool:
    """Return whether a file begins with a byte order mark, which names its encoding."""
    with opened(path) as stream:
        return stream.read(4).startswith(tuple(mark for mark, _ in MARKS))


def _is_utf8(path: Path, other: str) -> bool:
    """Return whether a file is UTF-8 and not of another encoding.

    It has characters beyond ASCII, all in UTF-8, which texts of other encodings hardly are; or it has only characters
    of ASCII, which the other encoding, such as UTF-16, writes differently.
    """
    differs = LETTERS.encode() != text_codec(other).encode(LETTERS)[0]
    decoder, beyond_ascii = codecs.getincrementaldecoder("utf-8")(), False
    with opened(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                return False
            if b"\0" in chunk:  # UTF-16
                return False
            beyond_ascii = beyond_ascii or not chunk.isascii()
    return beyond_ascii or differs
