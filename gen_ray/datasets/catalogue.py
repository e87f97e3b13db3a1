"""The registry of sources by name. A new source needs a class, and a line in SOURCES."""

from collections.abc import Mapping
from pathlib import Path

from gen_ray.datasets.digits import Digits
from gen_ray.datasets.image_folder import ImageFolder
from gen_ray.datasets.parquet import ParquetFiles
from gen_ray.datasets.sklearn_tables import BreastCancer, Diabetes, Iris, Wine
from gen_ray.datasets.source import DataSource, SourceOptions
from gen_ray.datasets.table_files import CsvFiles
from gen_ray.datasets.text import Text
from gen_ray.datasets.torchvision_sets import Cifar10, FashionMnist, Mnist
from gen_ray.errors import UserError, nearest
from gen_ray.tabular.text_streams import COMPRESSIONS

SOURCES: Mapping[str, type[DataSource]] = {
    "digits": Digits,
    "fashion_mnist": FashionMnist,
    "mnist": Mnist,
    "cifar10": Cifar10,
    "image_folder": ImageFolder,
    "text": Text,
    "parquet": ParquetFiles,
    "csv": CsvFiles,
    "wine": Wine,
    "breast_cancer": BreastCancer,
    "iris": Iris,
    "diabetes": Diabetes,
}


FORMATS = ("json", "jsonl", "excel", "xlsx", "hdf5", "h5", "npy", "npz", "arrow", "feather", "pandas")
"""Names of other formats of tables and arrays, which have to be converted."""
FILES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text"}
"""Sources of the files with a suffix."""


def open_source(source: str, root: Path | None, options: SourceOptions) -> DataSource:
    """Return the source of a text ``name`` or ``name:ARGUMENT``.

    Raise UserError for an unknown name, a missing or superfluous argument, or an option without effect.
    """
    name, colon, argument = source.partition(":")
    if name not in SOURCES:
        raise UserError(f"unknown source {name!r}: {_hint(name)}")
    kind = SOURCES[name]
    if bool(colon and argument) != bool(kind.argument):
        raise UserError(f"source {source!r}: write {name}{':' + kind.argument if kind.argument else ''}")
    defaults = SourceOptions()
    for key in type(options).model_fields:
        if key not in kind.used_options and getattr(options, key) != getattr(defaults, key):
            owners = ", ".join(other for other, cls in SOURCES.items() if key in cls.used_options)
            raise UserError(
                f"data.options.{key} has no effect on source {name!r} (only on {owners})", field="option", value=key
            )
    return kind(argument, root, options)


def _hint(name: str) -> str:
    """Return the remedy for an unknown source."""
    known = f"known: {', '.join(SOURCES)}"
    if name.lower() in ("tsv", "table", "txt"):
        return f"write csv:FILE for tables as text, with any delimiter ({known})"
    if name.lower() in FORMATS:
        return (
            "convert it to Parquet, with plain columns for a table, or a column x with a list of integers from 0 to "
            f"levels-1 in each row, and name it as parquet:FILE ({known})"
        )
    file = Path(name.lower())
    suffix = Path(file.stem).suffix if file.suffix in COMPRESSIONS else file.suffix
    if suffix in FILES:
        return f"write {FILES[suffix]}:{name} ({known})"
    return nearest(name, SOURCES)
