"""The settings of the reader of a CSV file with the columns of a model, by default those of the training data."""

import codecs
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from gen_ray.tabular.delimited import CsvFile, CsvOptions
from gen_ray.tabular.text_streams import opened, translated

CHUNK_BYTES = 2**20


def file_options(
    path: Path, columns: Collection[str], trained: CsvOptions, *, delimiter: str | None, encoding: str | None
) -> CsvOptions:
    """Return the settings of a file with some of the columns: given ones, else those of the training data.

    The latter are not used where the file shows that it is written differently, as files of ``gen-ray sample`` may be:
    it has characters beyond ASCII, all in UTF-8, or with this delimiter none of the columns. Raise UserError if the
    file cannot be read.
    """
    used = trained if encoding is None else replace(trained, encoding=encoding)
    with translated(path, trained.encoding_as("latin-1")):
        if encoding is None and trained.encoding and _is_utf8(path):
            used = replace(used, encoding="")
    if delimiter is not None:
        return replace(used, delimiter=delimiter)
    if trained.delimiter is not None and not set(columns) & set(CsvFile(path, used).names):
        return replace(used, delimiter=None)
    return used


def _is_utf8(path: Path) -> bool:
    """Return whether a file has characters beyond ASCII, all in UTF-8, which texts of other encodings hardly are."""
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
    return beyond_ascii
