"""Atomic replacement of files that a user names."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from gen_ray.engine.inference import texts
from gen_ray.engine.plots import grids
from gen_ray.errors import UserError
from gen_ray.storage.replacement import write_output

NOISE = np.random.default_rng(0).integers(256, size=(100, 100, 3), dtype=np.uint8)
WRITERS: dict[str, Callable[[Path], None]] = {
    "a.png": lambda file: grids.write(file, NOISE),
    "a.npz": lambda file: grids.write_arrays(file, {"x": torch.from_numpy(NOISE)}),
    "a.txt": lambda file: texts.write(file, "a" * 10_000),
}


@contextmanager
def no_room() -> Iterator[None]:
    """Limit every file to 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("older", [True, False])
def test_on_a_full_disk_no_partial_file_is_left_and_an_older_one_stays(tmp_path: Path, name: str, older: bool) -> None:
    file = tmp_path / name
    if older:
        file.write_bytes(b"older")
    with no_room(), pytest.raises(UserError, match=f"{name}: cannot be written"):
        WRITERS[name](file)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == ([(name, b"older")] if older else [])
    WRITERS[name](file)
    assert [found.name for found in tmp_path.iterdir()] == [name] and file.stat().st_size > 1000


def test_a_link_and_the_mode_of_a_file_are_kept(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"older")
    file.chmod(0o640)
    link.symlink_to(file)
    write_output(link, b"newer")
    assert link.is_symlink() and file.read_bytes() == b"newer" and file.stat().st_mode & 0o777 == 0o640


def test_devices_and_files_of_long_names_are_written(tmp_path: Path) -> None:
    write_output(Path(os.devnull), b"x")
    assert Path(os.devnull).is_char_device()
    write_output(tmp_path / ("n" * 255), b"x")
    with pytest.raises(UserError, match="cannot be written"):
        write_output(tmp_path, b"x")
