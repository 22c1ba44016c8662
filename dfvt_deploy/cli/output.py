"""Everything that a command writes to the terminal: the only module that prints."""

import io
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .. import quiet
from ..text_files import printable

#: One line, or several lines, of a table's cell.
Cell: TypeAlias = str | tuple[str, ...]

#: Width of a table that is not printed on a terminal.
PIPED_WIDTH = 200

#: Whether `--json` was given: of a command's answer its document is printed, else its text.
json_wanted = False


def prepare_streams() -> None:
    """Make stdout and stderr take every text, whatever their encoding, even if they are closed. The
    null device takes the place of a closed stream: the next opened file would get its number, and
    what a library prints would end up in that file."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(document: Any) -> None:
    """Print the answer as one JSON document in ASCII, at once, if `--json` was given."""
    if json_wanted:
        print(json.dumps(document, indent=2), flush=True)


def print_line(text: str) -> None:
    """Print one line with its control characters escaped, but not with `--json` or `--quiet`."""
    if not (json_wanted or quiet.wanted):
        print(printable(text))


def print_result(text: str, next_command: str | None = None) -> None:
    """Print at once what an answer comes to, and the command to go on with; not with `--json`."""
    if json_wanted:
        return
    print(printable(text), flush=True)
    if next_command:
        print(printable(f"next: {next_command}"), flush=True)


def browser(page: str | Path) -> str:
    """The command that opens an address or a file in a browser."""
    url = page.absolute().as_uri() if isinstance(page, Path) else page
    return shlex.join(["python", "-m", "webbrowser", url])


def print_error(*lines: str) -> None:
    """Print the lines of a message on stderr, each with its control characters escaped."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table below its title, but not with `--json` or `--quiet`; control characters in it
    are shown as backslash escapes. Words stay whole: a table that is too wide is printed without
    borders, and one that is still too wide with a line for each cell."""
    if json_wanted or quiet.wanted:
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    console = Console(highlight=False, markup=False, width=width)
    if title:
        print_line(title)
    lines = [[(cell,) if isinstance(cell, str) else cell for cell in row] for row in rows]
    cells = [["\n".join(map(printable, cell)) for cell in row] for row in lines]
    console.print(_table(columns, cells, console.width))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> Any:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Column, Table
    from rich.text import Text

    texts = ["\n".join(cells) for cells in zip(columns, *rows, strict=True)]
    least = [max(map(cell_len, text.split()), default=1) for text in texts]
    most = [max(1, *map(cell_len, text.split("\n"))) for text in texts]
    bare = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    forms = (Table(), 3, 1), (bare, 2, -2)
    for table, of_column, of_table in forms:  # what borders and padding take
        if widths := _widths(least, most, room - of_column * len(columns) - of_table):
            for column, width in zip(columns, widths, strict=True):
                table.add_column(column, width=width)
            for row in rows:
                table.add_row(*map(Text, row))
            bare.leading = any(  # where a row has several lines, its end would not be seen
                "\n" in cell or cell_len(cell) > width
                for row in rows
                for cell, width in zip(row, widths, strict=True)
            )
            return table
    table = Table.grid("", Column(overflow="fold"), padding=(0, 2, 0, 0))
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            if cell:
                table.add_row(column, Text(cell))
        table.add_row()
    return table


def _widths(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """The width of each column, the widest ones reduced until all together take the room; an empty
    list where a word would not fit."""
    widths = list(most)
    while sum(widths) > room:
        wide = [i for i, width in enumerate(widths) if width > least[i]]
        if not wide:
            return []
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths
