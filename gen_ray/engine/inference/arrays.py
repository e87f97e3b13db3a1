"""Reads one array of an .npz file; its header is checked before memory for its values is allocated."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from gen_ray.errors import UserError, one_line

SAMPLES = "samples"
"""Name of the array to read from a file that holds several."""
MAX_BYTES = 4 * 2**30
"""Largest array that is read."""


def read(file: Path) -> tuple[str, np.ndarray]:
    """Return the name and values, of any shape, of the only array of an .npz file, or of the one named samples.

    Raise UserError naming the file and the remedy, and FileNotFoundError.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        if not start:
            raise UserError(f"{file}: is empty; write it with numpy.savez(file, samples=x)")
        if start.startswith(npy.MAGIC_PREFIX):
            raise UserError(f"{file}: is one array (.npy) and not an .npz; write it with numpy.savez(file, samples=x)")
        stream.seek(0)
        try:
            with zipfile.ZipFile(stream) as archive:
                return _chosen(file, archive)
        except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{file}: cannot be read as .npz ({one_line(error, 120)})") from None
        except MemoryError:
            raise UserError(f"{file}: does not fit into memory; split it into smaller files") from None


def _chosen(file: Path, archive: zipfile.ZipFile) -> tuple[str, np.ndarray]:
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if not names:
        raise UserError(f"{file}: holds no array; write it with numpy.savez(file, samples=x)")
    name = SAMPLES if SAMPLES in names else names[0]
    if len(names) != 1 and name != SAMPLES:
        raise UserError(f"{file}: holds {', '.join(names)[:200]}; give one array, or name it 'samples'")
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        _check(file, name, stream, member.file_size)
    with archive.open(member) as stream:
        array: np.ndarray = npy.read_array(stream, allow_pickle=False)
    return name, array


def _check(file: Path, name: str, stream: IO[bytes], file_bytes: int) -> None:
    """Raise UserError where a header announces a non-numeric type, or more bytes than follow it."""
    version = npy.read_magic(stream)
    shape, _, dtype = npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
    if dtype.kind not in "buif":
        raise UserError(f"{file}: array {name!r} holds {dtype}; it must hold whole numbers")
    announced, present = math.prod(shape) * dtype.itemsize, file_bytes - stream.tell()
    if announced > present:
        raise UserError(f"{file}: array {name!r} announces {announced:,} bytes and has {present:,}: it is damaged")
    if announced > MAX_BYTES:
        raise UserError(f"{file}: array {name!r} has {announced:,} bytes, the limit is {MAX_BYTES:,}; split it")
