"""Streams of the text of files: decompressed, in UTF-8, and with a last row that shows that the file was read whole."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from gen_ray.errors import UserError, one_line

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
SIGNATURES = {
    b"\x1f\x8b\x08": "is compressed by gzip; rename it to end in .gz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; rename it to end in .zst",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; extract it, or export the sheet as CSV",
    b"PAR1": "is a Parquet file; rename it to end in .parquet",
}
"""First bytes of files that are not text, and the remedies."""
END = "\x04\x1a\x04"
"""The first cell of the row after the last one. If it does not arrive, a quotation mark before it is not closed.

It consists of control characters, because any other character may be the delimiter.
"""


def opened(path: Path) -> pa.NativeFile:
    """Return the decompressed bytes of a file as a stream."""
    stream = pa.OSFile(str(path)) if type(path) is type(Path()) else pa.PythonFile(path.open("rb"))
    compression = COMPRESSIONS.get(path.suffix.lower())
    return pa.CompressedInputStream(stream, compression) if compression else stream


def text_codec(encoding: str) -> codecs.CodecInfo:
    """Return an encoding of texts. Raise LookupError if it is unknown, or of bytes or texts only, such as base64."""
    if "\0" in encoding:
        raise LookupError("an encoding's name has a NUL character")
    found = codecs.lookup(encoding)
    if not found._is_text_encoding:  # as str.encode does
        raise LookupError(f"{encoding} is not an encoding of texts")
    return found


def with_end(stream: pa.NativeFile, encoding: str, delimiter: str, columns: int) -> pa.NativeFile:
    """Return a stream of text as UTF-8, followed by one more row of a number of columns, whose first cell is END."""
    text = stream if encoding == "utf-8" else pa.transcoding_input_stream(stream, encoding, "utf8")
    return pa.PythonFile(_WithEnd(text, (END + delimiter * (columns - 1) + "\n").encode()), "r")


class _WithEnd:
    """A file object that appends a row to a stream, on a separate line."""

    closed = False

    def __init__(self, stream: pa.NativeFile, row: bytes) -> None:
        self._stream, self._rest, self._last, self._ended = stream, row, b"\n", False

    def read(self, size: int) -> bytes:
        """Return size bytes, fewer only at the end: the parser does not wait for the end of a header."""
        parts, missing = list[bytes](), size
        while missing and not self._ended:
            content = self._stream.read(missing)
            self._ended = not content
            if content:
                parts.append(content)
                missing -= len(content)
                self._last = content[-1:]
            elif self._last not in (b"\n", b"\r"):
                self._rest = b"\n" + self._rest
        if self._ended:
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
        return b"".join(parts)

    def close(self) -> None:
        """Do nothing: the stream is closed by its owner."""


def check_text(sample: bytes, path: Path) -> None:
    """Raise UserError if a file begins like a file of another format."""
    for signature, fault in SIGNATURES.items():
        if sample.startswith(signature):
            raise UserError(f"{path}: is not text, but {fault}")


@contextmanager
def translated(path: Path, latin_1: str) -> Iterator[None]:
    """Raise errors of a file's content as UserError. latin_1 is how messages write the setting of this encoding."""
    try:
        yield
    except (UnicodeError, LookupError) as error:
        raise UserError(f"{path}: {_encoding_fault(error, latin_1)}") from None
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise UserError(f"{path}: {_encoding_fault(error, latin_1)}") from None
        raise UserError(f"{path}: not a readable CSV file ({one_line(error)})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None


def _encoding_fault(error: Exception, latin_1: str) -> str:
    if isinstance(error, LookupError) and not isinstance(error, UnicodeError):
        return f"{one_line(error)}; give one of Python's encodings, e.g. {latin_1}"
    return f"wrong encoding ({one_line(error)}); name it, e.g. {latin_1}, or convert to UTF-8"
