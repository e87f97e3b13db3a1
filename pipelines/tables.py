"""Tables on a terminal: numbers and ids are never cut off, and text is never read as rich's markup."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

BREAKABLE = 12
"""Minimum width of a prose column, in characters."""
UNLIMITED = 100_000
"""Line width that means a file or pipe, in characters."""
PIPED = 200
"""Line width at which prose is wrapped in a file or pipe, in characters."""


def show_table(
    title: str,
    header: list[str],
    lines: list[list[str]],
    *,
    prose: Collection[str] = (),
    dispensable: Sequence[str] = (),
) -> None:
    """Print a table. On a narrow terminal, wrap the columns named in prose and leave out dispensable ones in order.

    If the table is still too wide, each line is printed as a list of names and values.
    """
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, highlight=False, width=UNLIMITED)
    widths = [_width(name, column, prose) for name, column in zip(header, _columns(header, lines), strict=True)]
    width = max(PIPED, _needed(widths)) if console.width == UNLIMITED else console.width
    columns, left_out = list(range(len(header))), [name for name in dispensable if name in header]
    dropped = []
    while _needed([widths[i] for i in columns]) > width and left_out:
        dropped.append(left_out.pop(0))
        columns.remove(header.index(dropped[-1]))
    console.print(title, soft_wrap=True)
    if _needed([widths[i] for i in columns]) > width:
        _print_records(console, header, lines)
        return
    _print_table(console, [header[i] for i in columns], [[line[i] for i in columns] for line in lines], prose, width)
    if dropped:
        console.print(f"left out because the terminal has {width} columns: {', '.join(dropped)}", soft_wrap=True)


def _columns(header: list[str], lines: list[list[str]]) -> list[list[str]]:
    return [[line[i] for line in lines] for i in range(len(header))]


def _width(name: str, cells: list[str], prose: Collection[str]) -> int:
    """Return the minimum width of a column, in characters."""
    from rich.cells import cell_len

    widest = max((cell_len(part) for cell in (name, *cells) for part in cell.splitlines() or [""]), default=0)
    return min(widest, max(BREAKABLE, cell_len(name))) if name in prose else widest


def _needed(widths: Collection[int]) -> int:
    """Return the width of a line, in characters: each column has a border and a blank on either side."""
    return sum(width + 3 for width in widths) + 1


def _print_table(
    console: "Console", header: list[str], lines: list[list[str]], prose: Collection[str], width: int
) -> None:
    from rich.table import Table

    table = Table()
    for name in header:
        left = name in header[:2] or name in prose
        table.add_column(name, no_wrap=name not in prose, overflow="fold", justify="left" if left else "right")
    for line in lines:
        table.add_row(*line)
    console.print(table, width=width)


def _print_records(console: "Console", header: list[str], lines: list[list[str]]) -> None:
    for line in lines:
        console.print(line[0], soft_wrap=True)
        for name, cell in zip(header[1:], line[1:], strict=True):
            if cell:
                console.print(f"  {name or 'note'}: {cell}", soft_wrap=True)
