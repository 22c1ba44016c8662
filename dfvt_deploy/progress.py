"""Progress for people: bars and status lines on stderr, silent when it is not a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Everything that is not a command's answer goes here.
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Show a line with a spinner while a step runs."""
    if stderr.is_terminal:
        with stderr.status(text):
            yield
    else:
        yield


def download_bar() -> Progress:
    """A bar with bytes and remaining time, to be used with `with`."""
    return Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )


def steps_bar() -> Progress:
    """A bar with steps done and elapsed time, to be used with `with`."""
    return Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )


def note(text: str) -> None:
    """A plain line for the user."""
    stderr.print(text, markup=False)


def warn(text: str) -> None:
    """A line the user should not miss."""
    stderr.print(f"warning: {text}", style="yellow", markup=False)
