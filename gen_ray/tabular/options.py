"""Settings of the columns of a table. They replace inferred values."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gen_ray.configuration.base import Config
from gen_ray.errors import UserError, nearest
from gen_ray.tabular.columns import MARKERS
from gen_ray.tabular.text_streams import END

ColumnType = Literal["number", "integer", "boolean", "datetime", "category"]
Markers = Annotated[tuple[str, ...], BeforeValidator(lambda raw: _as_texts(raw))]
MOST_CODES = 32_768


def _as_texts(raw: object) -> object:
    """Return the numbers and nulls of a list, as YAML reads -999 and null, as texts."""
    if not isinstance(raw, list | tuple):
        return raw
    return tuple("null" if item is None else str(item) if type(item) in (int, float) else item for item in raw)


class ColumnOptions(Config):
    """Settings of one column. Those that are left out are inferred, or are those of the table."""

    type: ColumnType | None = Field(default=None, description="type of the values")
    missing: Markers | None = Field(
        default=None, description="texts that mark a missing value, in place of data.options.missing"
    )
    bins: int | None = Field(default=None, ge=2, le=MOST_CODES, description="largest number of intervals")
    format: str | None = Field(default=None, min_length=2, description="format of times, as in strptime, e.g. %d/%m/%Y")
    missing_as_category: bool = Field(
        default=False, description="a missing value is a category: generated like the others, never imputed"
    )
    keep: bool | None = Field(default=None, description="true: keep an identifier; false: leave the column out")


def parse_delimiter(value: str) -> str:
    """Return a delimiter, which is one ASCII character, or tab for the tabulator. Raise ValueError."""
    value = "\t" if value == "tab" else value
    if value in ('"', "\n", "\r", "\0", *END) or len(value.encode()) != 1:
        raise ValueError("must be tab or one ASCII character, not a quotation mark, line end or end of a text")
    return value


class TableOptions(Config):
    """Settings of tables."""

    delimiter: Annotated[str, AfterValidator(parse_delimiter)] | None = Field(
        default=None, description="character between the cells of a CSV file; detected among , ; | and tab"
    )
    encoding: str = Field(default="", description="encoding of CSV files, e.g. latin-1; UTF-8 unless a mark says other")
    missing: Markers = Field(default=MARKERS, description="texts that mark a missing value")
    bins: int = Field(default=128, ge=2, le=MOST_CODES, description="largest number of intervals of a number")
    max_categories: int = Field(
        default=256, ge=1, le=MOST_CODES, description="largest number of categories; the rest is one category, other"
    )
    columns: Mapping[str, ColumnOptions] = Field(default={}, description="settings of columns by name")
    target: str | None = Field(default=None, description="column whose prediction is evaluated")
    hide_share: float = Field(
        default=0.0, ge=0.0, lt=1.0,
        description="share of the values of training and validation rows that are left out completely at random, to "
        "measure what a model learns from incomplete rows",
    )  # fmt: skip

    def of(self, name: str) -> ColumnOptions:
        """Return the settings of a column."""
        return self.columns.get(name, ColumnOptions())

    def markers(self, name: str) -> tuple[str, ...]:
        """Return the texts that mark a missing value of a column."""
        own = self.of(name).missing
        return self.missing if own is None else own

    def check_names(self, names: list[str]) -> None:
        """Raise UserError for settings of a column that the table lacks."""
        for name in self.columns:
            if name not in names:
                raise UserError(f"data.options.columns.{name}: unknown column, {nearest(name, names)}")
        if self.target is not None and self.target not in names:
            raise UserError(f"data.options.target={self.target}: unknown column, {nearest(self.target, names)}")
