"""Writes samples to files: images as a picture, texts as a page, any data as an array."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import memory, texts
from gen_ray.engine.plots import grids
from gen_ray.errors import UserError, argument

Writer = Callable[[Path, Tensor, DataSpec], None]
"""(file, samples (N, *shape), spec)."""


def _picture(file: Path, samples: Tensor, spec: DataSpec) -> None:
    grids.write(file, grids.grid(samples, levels=spec.levels))


def _page(file: Path, samples: Tensor, spec: DataSpec) -> None:
    texts.write(file, texts.page(samples, spec))


def _array(file: Path, samples: Tensor, spec: DataSpec) -> None:
    grids.write_arrays(file, {"samples": samples})


def writers(spec: DataSpec) -> Mapping[str, Writer]:
    """Return the writers of samples of a spec by file suffix; the default comes first."""
    if spec.is_image:
        return {".png": _picture, ".npz": _array}
    return {".txt": _page, ".npz": _array} if spec.is_text else {".npz": _array}


def file_for(out: Path | None, spec: DataSpec) -> Path:
    """Return out, or ``samples`` with the default suffix. Raise UserError for a suffix that the data do not support."""
    endings = list(writers(spec))
    out = out or Path(f"samples{endings[0]}")
    if out.suffix not in endings:
        raise UserError(
            f"{spec.name} holds {spec.kind}, its samples are written as {' or '.join(endings)}", field="out", value=out
        )
    return out


def check(file: Path, n: int, spec: DataSpec) -> None:
    """Raise UserError where n samples and the file content made of them do not fit into memory."""
    needed = n * spec.dims * spec.storage_dtype.itemsize
    remedy = "ask for fewer"
    if file.suffix != ".npz":
        needed += grids.grid_bytes(n, spec.shape) if spec.is_image else 8 * n * spec.dims  # the text is in memory twice
        remedy += f", or write them with {argument('out', 'samples.npz')}"
    memory.require(needed, f"{argument('n', f'{n:,}')} as {file.suffix}", remedy)


def save(file: Path, samples: Tensor, spec: DataSpec) -> None:
    """Write samples (N, *shape) in the format of the file's suffix. Raise UserError where this fails."""
    writers(spec)[file.suffix](file, samples, spec)
