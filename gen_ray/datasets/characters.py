"""The reader of text files, for data sets and for instances on the command line.

The result does not depend on the system that wrote the file. The encoding is UTF-8, or UTF-16 or UTF-32 after a byte
order mark. Such marks are dropped, also between the parts of concatenated files. Every line end (CR LF, CR, NEL, LS,
PS) becomes a line feed.
"""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gen_ray.errors import UserError

MARK = "\ufeff"
LINE_ENDS = str.maketrans({"\x85": "\n", "\u2028": "\n", "\u2029": "\n", MARK: None})
MARKS = (  # longer marks first, because the mark of UTF-16 is a prefix of that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read(path: Path) -> str:
    """Return the characters of a text file. Raise UserError."""
    return "".join(blocks(path, 2**20))


def blocks(path: Path, size: int) -> Iterator[str]:
    """Yield the characters of a text file, decoded from at most size bytes at a time.

    Raise UserError, for bytes of another encoding with the position of the first one.
    """
    check(path)
    newlines = io.IncrementalNewlineDecoder(None, translate=True)  # a line end may straddle two blocks
    try:
        with path.open("rb") as stream:
            for text in _decoded(path, stream, size):
                yield newlines.decode(text).translate(LINE_ENDS)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    yield newlines.decode("", final=True)


def check(path: Path) -> None:
    """Raise UserError unless path is a regular file or a link to one."""
    if not path.is_file():
        fault = "a folder, not a file" if path.is_dir() else "not a regular file" if path.exists() else "no such file"
        raise UserError(f"{path}: {fault}")


def plain(text: str) -> str:
    """Return a text with line feeds as its only line ends, and without byte order marks."""
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True).translate(LINE_ENDS)


def _decoded(path: Path, stream: BinaryIO, size: int) -> Iterator[str]:
    head = stream.read(4)
    offset, encoding = next(((len(mark), name) for mark, name in MARKS if head.startswith(mark)), (0, "utf-8"))
    stream.seek(offset)
    decoder, block = codecs.getincrementaldecoder(encoding)(), b"more"
    while block:
        block = stream.read(size)
        offset -= len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
            place, remedy = offset + error.start, "UTF-16 and UTF-32 are read after a byte order mark"
            raise UserError(f"{path}: byte {place} is not {name}; store the text as UTF-8 ({remedy})") from error
        offset = stream.tell()
