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
    """Print one JSON document in ASCII, at once."""
    print(json.dumps(document, indent=2), flush=True)


def print_line(text: str) -> None:
    """Print one line on stdout, but not with `--quiet`; control characters in it are shown as
    backslash escapes."""
    if not quiet.wanted:
        print(printable(text))


def print_result(text: str, next_command: str | None = None) -> None:
    """Print at once the line that an answer comes to, and the command to go on with, quoted."""
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
    """Print a table below its title, but not with `--quiet`; control characters in it are shown as
    backslash escapes."""
    if quiet.wanted:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        lines = ((cell,) if isinstance(cell, str) else cell for cell in row)
        table.add_row(*(Text("\n".join(map(printable, cell))) for cell in lines))
    if title:
        print_line(title)
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    Console(highlight=False, markup=False, width=width).print(table)
