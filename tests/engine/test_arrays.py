"""Reading of .npz files: other contents are refused in one line with file and remedy, using little memory."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from gen_ray.engine.inference import arrays, instances
from gen_ray.errors import UserError
from tests.engine.tiny_models import model

ONE = np.zeros((2, 1, 4, 4), np.uint8)


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_npy", ".npy"), data)
    return file.getvalue()


def saved(save: Callable[..., None], *given: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *given, **named)
    return file.getvalue()


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "npy": (saved(np.save, ONE), "is one array (.npy)"),
    "no members": (zipped(), "holds no array"),
    "other members": (zipped(readme=b"text"), "holds no array"),
    "dates": (saved(np.savez, x=np.zeros(3, "datetime64[s]")), "holds datetime64[s]"),
    "durations": (saved(np.savez, x=np.zeros(3, "timedelta64[s]")), "holds timedelta64[s]"),
    "texts": (saved(np.savez, x=np.array(["a"])), "holds <U1"),
    "complex": (saved(np.savez, x=ONE.astype(complex)), "holds complex128"),
    "records": (saved(np.savez, x=np.zeros(2, "i4,f4")), "whole numbers"),
    "objects": (saved(np.savez, x=np.array([{}], dtype=object)), "holds object"),
    "8 TB": (zipped(x_npy=header((2**33, 1024))), "announces 8,796,093,022,208 bytes and has"),
    "negative": (zipped(x_npy=header((-1, 16))), "x.npz: "),
    "truncated member": (zipped(x_npy=header((2, 1, 4, 4)) + bytes(31)), "announces 32 bytes"),
    "not npy": (zipped(x_npy=b"text"), "cannot be read as .npz"),
    "truncated": (saved(np.savez, x=ONE)[:-30], "cannot be read as .npz"),
    "flipped": (saved(np.savez, x=ONE).replace(bytes(32), bytes(31) + b"\1"), "cannot be read as .npz"),
    "garbage": (b"PK\3\4" + bytes(100), "cannot be read as .npz"),
    "nan": (saved(np.savez, x=np.full((2, 1, 4, 4), np.nan)), "whole numbers from 0 to"),
    "scalar": (saved(np.savez, x=np.array(3)), "has shape"),
    "no rows": (saved(np.savez, x=ONE[:0]), "has shape"),
    "huge numbers": (saved(np.savez, x=np.full((2, 1, 4, 4), 2**64 - 1, np.uint64)), "whole numbers from 0 to"),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("name", BAD)
def test_a_file_without_instances_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, words = BAD[name]
    file = tmp_path / "x.npz"
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            instances.read(file, model("ddpm").spec)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    line = str(error.value)
    assert line.startswith(str(file)) and words in line and "\n" not in line


def test_the_only_array_or_the_one_named_samples_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", z=ONE + 1)
    np.savez(tmp_path / "b.npz", other=ONE, samples=np.asfortranarray(ONE + 2))
    assert [(name, int(x.max()), x.shape) for name, x in map(arrays.read, sorted(tmp_path.iterdir()))] == [
        ("z", 1, ONE.shape),
        ("samples", 2, ONE.shape),
    ]
