"""Options of commands on CSV files that are written differently from the training data."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.inference.artifact import Model
    from gen_ray.tabular.delimited import CsvOptions


@dataclass(frozen=True)
class CsvFormat:
    """How the CSV file of a command is written."""

    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help="For CSV: the character between the cells, or tab. Default: that of the training data, or detected.",
        ),
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For CSV: the encoding of the file, e.g. latin-1. Default: that of the training data, or UTF-8.",
        ),
    ] = None

    def check_unused(self, why: str) -> None:
        """Raise UserError if an option is given where it does not apply."""
        from gen_ray.errors import UserError

        for name, value in vars(self).items():
            if value is not None:
                raise UserError(f"--{name}: has no effect {why}; leave it out")

    def check_table(self, spec: "DataSpec") -> None:
        """Raise UserError if an option is given for a model of other data."""
        if not spec.is_table:
            self.check_unused(f"on files of {spec.kind}")

    def options(self, path: Path, model: "Model") -> "CsvOptions":
        """Return the settings of the reader of a file: those given, or else those of the training data.

        Raise UserError for a Parquet file with given ones.
        """
        from gen_ray.tabular.csv_defaults import file_options
        from gen_ray.tabular.delimited import CsvOptions
        from gen_ray.tabular.plain_parquet import is_parquet

        if is_parquet(path):
            self.check_unused(f"on {path}, which is not CSV")
            return CsvOptions(arguments=True)
        delimiter, names = self._delimiter(), [column.name for column in model.spec.columns]
        own = model.experiment.data.options
        trained = CsvOptions(own.delimiter, own.encoding, arguments=True)
        return file_options(path, names, trained, delimiter=delimiter, encoding=self.encoding)

    def _delimiter(self) -> str | None:
        from gen_ray.errors import UserError
        from gen_ray.tabular.options import parse_delimiter

        try:
            return None if self.delimiter is None else parse_delimiter(self.delimiter)
        except ValueError as error:
            raise UserError(f"--delimiter: {error}") from None
