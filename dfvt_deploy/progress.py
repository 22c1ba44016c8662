"""Progress for people: bars and status lines on stderr, silent when it is not a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from . import quiet
from .text_files import printable

#: Everything that is not a command's answer goes here.
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a line with a spinner and the elapsed time while a step runs."""
    with _progress(bars.SpinnerColumn(), "{task.description}", bars.TimeElapsedColumn()) as line:
        line.add_task(escape(printable(text)), total=None)
        yield


def download_bar() -> bars.Progress:
    """A bar with bytes and remaining time, to be used with `with`."""
    return _bar(bars.DownloadColumn(), bars.TimeRemainingColumn())


def steps_bar() -> bars.Progress:
    """A bar with steps done and elapsed time, to be used with `with`."""
    return _bar(bars.MofNCompleteColumn(), bars.TimeElapsedColumn())


class _Rate(bars.ProgressColumn):
    """Images or other steps a second."""

    def render(self, task: bars.Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def image_bar(text: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar with images done, their rate and the remaining time; the block calls the function
    it gets after each image, or with a number of images."""
    times = (bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    with _bar(bars.MofNCompleteColumn(), _Rate(), *times, window=600) as bar:
        task = bar.add_task(text, total=total, completed=done)
        yield lambda images=1: bar.advance(task, images)


def _bar(*columns: bars.ProgressColumn, window: float = 30) -> bars.Progress:
    """A bar whose speed is that of the last `window` seconds."""
    return _progress("{task.description}", bars.BarColumn(), *columns, window=window)


def _progress(*columns: str | bars.ProgressColumn, window: float = 30) -> bars.Progress:
    return bars.Progress(
        *columns,
        console=stderr,
        speed_estimate_period=window,
        disable=quiet.wanted or not stderr.is_terminal,
        transient=True,
        # Answers that go to a file would end up on the terminal, where the bar is.
        redirect_stdout=sys.stdout.isatty(),
    )


def note(text: str) -> None:
    """Print a line for the user on stderr, but not with `--quiet`."""
    if not quiet.wanted:
        stderr.print(printable(text), markup=False)


def warn(text: str) -> None:
    """Print a line on stderr that the user should not miss."""
    stderr.print(f"warning: {printable(text)}", style="yellow", markup=False)
