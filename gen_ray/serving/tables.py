"""Tables of data in responses: the description of columns, rows as JSON objects or CSV, and the bits of cells."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.instances import InstanceError
from gen_ray.engine.inference.rows.chains import decoding_uniforms
from gen_ray.engine.inference.rows.texts import as_texts, csv_header, csv_lines
from gen_ray.engine.inference.table_rows import LONGEST_LISTED, GivenRows, as_json, as_objects, decoded
from gen_ray.errors import listed
from gen_ray.tabular.columns import CategoryColumn, Column, DatetimeColumn, OrderedColumn

LISTED = 1000
"""Maximum number of categories that the description of a column lists, the most frequent ones."""
DELIMITER = ","
MOST_NOTED_BYTES = 2048
"""Maximum bytes of the unknown categories in a header; clients and proxies refuse headers of more than 4 to 64 KB."""


def describe(spec: DataSpec) -> dict[str, Any]:
    """Return the columns and the target of a table of data as JSON."""
    entropies = typical_bits(spec)
    columns = [_column(column, bits) for column, bits in zip(spec.columns, entropies, strict=True)]
    return {"columns": columns, "target": spec.target}


def typical_bits(spec: DataSpec) -> list[float]:
    """Return the entropies (D,) of the columns in the training data: the mean bits of a value without the others."""
    p = spec.frequencies
    return [float(entropy) for entropy in -(p * np.log2(np.where(p > 0, p, 1))).sum(1)]


def _column(column: Column, typical: float) -> dict[str, Any]:
    """Return the description of one column."""
    described: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "value_type": column.arrow_type,
        "missing_allowed": True,
        "missing_texts": list(column.missing),
        "typical_bits": typical,
    }
    if isinstance(column, OrderedColumn):
        last = column.cardinality - 1
        ends = column.decode(np.array([0, last]), np.array([0.0, np.nextafter(1, 0)]))
        described["range"] = as_json(ends)
    if isinstance(column, CategoryColumn):
        known = len(column.categories)
        frequent = np.sort(np.argsort(-np.array(column.counts[:known]), kind="stable")[:LISTED])
        described["categories"] = as_json(column.decode(frequent, np.zeros(len(frequent))))
        described["categories_left_out"] = known - len(frequent)
        described["missing_as_category"] = column.missing_as_category
    if isinstance(column, DatetimeColumn) and column.format is not None:
        described["csv_format"] = column.format
    return described


def sampled_rows(samples: np.ndarray, seed: int, spec: DataSpec, given: GivenRows | None) -> pa.Table:
    """Return the values of samples (n, D), codes, null where they are −1; given values are returned as they were sent.

    The value of row i that a code stands for is a function of (seed, i), as in files that gen-ray writes. Under
    conditions it is one of the allowed values.
    """
    codes = samples.astype(np.int64)
    u = decoding_uniforms(np.arange(len(samples)), seed, spec.dims)
    if given is not None and given.conditions is not None:
        given.conditions.select_allowed(codes, u)
    return decoded(codes, u, spec, given)


def sampled_objects(samples: np.ndarray, seed: int, spec: DataSpec, given: GivenRows | None) -> list[dict[str, Any]]:
    """Return the values of samples (n, D) as JSON objects; see ``sampled_rows``."""
    return as_objects(sampled_rows(samples, seed, spec, given))


def bits_of(arrays: Mapping[str, np.ndarray], spec: DataSpec, given: GivenRows) -> pa.Table:
    """Return the bits of rows, and of cells if the family gives them: null where a value is missing."""
    columns = {"bits": pa.array(arrays["bits"])}
    for d, column in enumerate(spec.columns if "cells" in arrays else ()):
        columns[f"{column.name}_bits"] = pa.array(arrays["cells"][:, d], mask=~given.known[:, d])
    return pa.table(columns)


def bits_json(arrays: Mapping[str, np.ndarray], spec: DataSpec, given: GivenRows) -> dict[str, Any]:
    """Return the bits of rows as numbers, and those of their cells as objects by column, None where it is missing."""
    fields: dict[str, Any] = {"bits": arrays["bits"].tolist()}
    if "cells" in arrays:
        names = [column.name for column in spec.columns]
        cells = [pa.array(arrays["cells"][:, d], mask=~given.known[:, d]) for d in range(len(names))]
        fields["cells"] = as_objects(pa.table(cells, names=names))
    return fields


def csv_text(table: pa.Table, spec: DataSpec, given: GivenRows | None, *, keeps_given: bool) -> bytes:
    """Return a table (n·N rows) as CSV, UTF-8. Times have the format of the column's own files.

    If N rows were given as CSV, the result has their delimiter, the order of their columns, and the cells of those that
    the model does not use. With keeps_given, known cells of the others are the given ones too.
    """
    by_name = {column.name: column for column in spec.columns}
    texts = {
        name: pc.fill_null(as_texts(table.column(name).combine_chunks(), name, by_name.get(name)), "")
        for name in table.column_names
    }
    delimiter = DELIMITER
    if given is not None and given.cells is not None:
        texts, delimiter = _with_given_cells(texts, given, given.cells, keeps_given), given.delimiter
    return csv_header(list(texts), delimiter) + csv_lines(list(texts.values()), delimiter)


def _with_given_cells(
    texts: Mapping[str, pa.Array], given: GivenRows, cells: pa.Table, keeps_given: bool
) -> dict[str, pa.Array]:
    rows = len(next(iter(texts.values())))
    index = np.repeat(np.arange(len(given)), rows // len(given))
    made, columns = dict[str, pa.Array](), given.values.column_names
    for name, repeated in zip(cells.column_names, cells.take(pa.array(index)).columns, strict=True):
        own = repeated.combine_chunks()
        if name not in columns:
            made[name] = own
        elif name in texts:
            known = given.known[index, columns.index(name)] & keeps_given
            made[name] = pc.if_else(pa.array(known), own, texts[name])
    return {**made, **{name: values for name, values in texts.items() if name not in made}}


def check_score_names(given: GivenRows, spec: DataSpec, field: str) -> None:
    """Raise InstanceError if a column that is passed through has the name of one that scores add."""
    added = ["bits", *(f"{column.name}_bits" for column in spec.columns)]
    if taken := sorted(set(added) & set(given.unused)):
        raise InstanceError(field, f"has a column {taken[0]!r} already; rename it")


def notes(given: GivenRows | None) -> dict[str, Any]:
    """Return the notes on given rows: categories that the model does not know, and columns that it does not use."""
    if given is None:
        return {}
    names = [name[:LONGEST_LISTED] for name in given.unused]
    unused = {"unused_columns": listed(names, 5)} if names else {}
    return {**({"treated_as_other": dict(given.unknown)} if given.unknown else {}), **unused}


def notes_for_header(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return notes that fit into a header: unknown categories of the first columns, and the number of the others."""
    kept, size, unknown = dict[str, Any](), 0, notes.get("treated_as_other", {})
    for name, texts in unknown.items():
        size += len(json.dumps({name: texts}))
        if size > MOST_NOTED_BYTES:
            break
        kept[name] = texts
    if len(kept) == len(unknown):
        return dict(notes)
    return {**notes, "treated_as_other": kept, "columns_left_out": len(unknown) - len(kept)}
