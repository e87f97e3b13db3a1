"""Which cells of a CSV file are in quotation marks, so that a copy of the file can write them in the same way.

pyarrow returns the texts of cells without this. Rows are read again here, a chunk in memory at a time, only from files
that contain a quotation mark.
"""

import codecs
import re
from collections.abc import Iterator

import numpy as np

from gen_ray.tabular.delimited import CsvFile
from gen_ray.tabular.text_streams import opened

CHUNK_BYTES = 2**20


def has_quotation_marks(file: CsvFile) -> bool:
    """Return whether a file contains a quotation mark."""
    with file.translated(), opened(file.path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            if b'"' in chunk:
                return True
    return False


class QuotedCells:
    """The rows of a CSV file in order, without its header, as masks of the cells in quotation marks."""

    def __init__(self, file: CsvFile) -> None:
        """Start at the first row."""
        self._parts = _quoted(file)
        self._waiting = np.empty((0, len(file.names)), bool)

    def take(self, rows: int) -> np.ndarray:
        """Return the mask (rows, C) of the next rows."""
        parts = [self._waiting]
        while sum(map(len, parts)) < rows:
            parts.append(next(self._parts))
        joined = np.concatenate(parts)
        self._waiting = joined[rows:]
        return joined[:rows]


def _quoted(file: CsvFile) -> Iterator[np.ndarray]:
    """Yield masks (n, C) of consecutive rows."""
    pattern, first = _row_pattern(file.delimiter, len(file.names)), 1
    for rows in _rows(file, pattern):
        cells = np.array([row.groups() for row in rows[first:]], object).reshape(-1, len(file.names))
        yield cells == '"'
        first = max(0, first - len(rows))


def _rows(file: CsvFile, pattern: re.Pattern[str]) -> Iterator[list[re.Match[str]]]:
    """Yield the matches of consecutive rows of each chunk, the header too."""
    decoder, text = codecs.getincrementaldecoder(file.encoding)(), ""
    blank = re.compile("\r\n|\n|\r(?!\\Z)") if len(file.names) > 1 else re.compile("(?!)")
    with file.translated(), opened(file.path) as stream:
        ended, started = False, False
        while not ended:
            chunk = stream.read(CHUNK_BYTES)
            ended = not chunk
            text += decoder.decode(chunk, ended)
            if not started:  # blank lines before the header do not count
                text = text.removeprefix("\ufeff").lstrip("\r\n")
                started = bool(text)
            if ended and text and not text.endswith("\n"):
                text += "\n"
            found, place = [], 0
            while match := pattern.match(text, place) or blank.match(text, place):
                found += [match] if match.re is pattern else []
                place = match.end()
            text = text[place:]
            yield found


def _row_pattern(delimiter: str, columns: int) -> re.Pattern[str]:
    r"""Return the pattern of a complete row. Each cell is a group, which is the quotation mark before it, or None.

    A mark inside a cell is part of its text. A \r at the end of a chunk may be followed by \n.
    """
    other = rf"[^{re.escape(delimiter)}\r\n]*"
    cell = rf'(?:(")[^"]*(?:""[^"]*)*"(?!")|(?!")){other}'
    return re.compile(re.escape(delimiter).join([cell] * columns) + r"(?:\r\n|\n|\r(?!\Z))")
