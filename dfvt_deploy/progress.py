"""Progress for people: bars and status lines on stderr, silent when it is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@contextmanager
def image_bar(text: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """A bar that counts images with the remaining time; call what it gives after each."""
    bar = Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(text, total=total, completed=done)
        yield lambda: bar.advance(task)


def note(text: str) -> None:
    """A plain line for the user."""
    stderr.print(text, markup=False)


def warn(text: str) -> None:
    """A line the user should not miss."""
    stderr.print(f"warning: {text}", style="yellow", markup=False)
