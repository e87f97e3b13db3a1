"""Columns of tensors in Parquet files: their element type, their stored shape, and their usable rows."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.errors import LISTED, UserError, argument

CHANNELS = (1, 3, 4)


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def element_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the element type of a list or tensor of numbers, else None."""
    stored = _storage_type(kind)
    lists = pa.types.is_list(stored) or pa.types.is_large_list(stored) or pa.types.is_fixed_size_list(stored)
    return stored.value_type if lists and pa.types.is_primitive(stored.value_type) else None


def is_plain(kind: pa.DataType) -> bool:
    """Return whether a column of a type holds neither lists nor tensors."""
    stored = _storage_type(kind)
    return not (pa.types.is_list(stored) or pa.types.is_large_list(stored) or pa.types.is_fixed_size_list(stored))


def check_unique(name: str, schema: pa.Schema, file: Path) -> None:
    """Raise UserError if a file has several columns of one name."""
    if schema.names.count(name) > 1:
        raise UserError(f"{file}: has {schema.names.count(name)} columns {name!r}; rename or remove all but one")


def stated_shape(column: pa.Field, file: Path) -> tuple[int, ...]:
    """Return the shape of an example that a column's type or extension metadata states, else ().

    Raise UserError for tensors with permuted axes and for metadata without a shape.
    """
    kind, metadata = column.type, column.metadata or {}
    if isinstance(kind, pa.FixedShapeTensorType) and kind.permutation not in (None, [*range(len(kind.shape))]):
        raise UserError(f"{file}: column {column.name!r} has permuted axes; store the tensors in plain order")
    ray = metadata.get(b"ARROW:extension:name", b"").startswith(b"ray.data.arrow_tensor")  # without importing Ray
    if not hasattr(kind, "shape") and not ray:
        return (kind.list_size,) if pa.types.is_fixed_size_list(kind) else ()
    stated = kind.shape if hasattr(kind, "shape") else _shape_in(metadata.get(b"ARROW:extension:metadata", b""))
    if not isinstance(stated, list | tuple) or not all(type(axis) is int for axis in stated):
        example = argument("option", "shape=[28,28]")
        raise UserError(f"{file}: column {column.name!r} states no shape; give it, e.g. {example}")
    return tuple(stated)


def _shape_in(text: bytes) -> object:
    """Return the value in the metadata of a tensor column, or None if it cannot be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def image_axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape (L,) or (C, H, W) of an example stored as shape, and the stored axes of its axes 1, 2, …."""
    if len(shape) == 2:
        return (1, *shape), (1, 2)
    if len(shape) == 3 and shape[2] in CHANNELS and shape[0] not in CHANNELS:
        return (shape[2], shape[0], shape[1]), (3, 1, 2)
    return shape, tuple(range(1, len(shape) + 1))


def usable_rows(array: pa.Array, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the usable rows of a column, x (n, size) int64, and the mask (rows,) of usable rows."""
    lists = array.storage if isinstance(array, pa.ExtensionArray) else array
    usable = pc.fill_null(pc.list_value_length(lists), -1).to_numpy() == size
    flat = lists.filter(pa.array(usable)).flatten().cast(pa.int64(), safe=False)
    x = pc.fill_null(flat, -1).to_numpy().reshape(-1, size)
    whole = (x >= 0).all(axis=1)
    usable[usable] = whole
    return x[whole], usable


def described(schema: pa.Schema) -> str:
    """Return at most LISTED columns of a file with their types, as text."""
    shown = [f"{field.name} ({field.type})" for field in schema][:LISTED]
    more = f" and {len(schema) - LISTED} more" if len(schema) > LISTED else ""
    return ", ".join(shown) + more if shown else "none"


def is_table(schema: pa.Schema) -> bool:
    """Return whether a file is a table of single values: without lists and tensors, and not pictures with labels."""
    values = [field for field in schema if not _has_bytes(pa.schema([field]))]
    return all(is_plain(field.type) for field in schema) and (len(values) == len(schema) or len(values) > 1)


def pictures_hint(schema: pa.Schema) -> str:
    """Return the remedy for columns of bytes, which usually are encoded pictures (PNG, JPEG), or "" without any."""
    return "; extract encoded pictures (PNG, JPEG) to files and use image_folder:DIR" if _has_bytes(schema) else ""


def _has_bytes(schema: pa.Schema) -> bool:
    """Return whether a column holds bytes, also in a struct with the file's name, as published data sets have them."""
    kinds = [field.type for field in schema]
    kinds += [part.type for kind in kinds if pa.types.is_struct(kind) for part in kind]
    return any(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) for kind in kinds)
