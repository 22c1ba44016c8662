"""How a command ends: one message on stderr, and the exit code of its kind; one that does the same
for several models goes on past one that fails."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO, TypeVar

import typer

from ..errors import EXTRAS, DfvtError, MissingDependency, StageFailed
from .output import print_error

INTERRUPTED = 130

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def command(debug: bool) -> Iterator[None]:
    """Run the body of a command and turn its error into a message and an exit code; with `debug`
    also print the traceback. SIGTERM and SIGHUP end the body as Ctrl-C does: nothing is left."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end(INTERRUPTED, ["interrupted"], debug)
    except typer.Exit:
        raise
    except BrokenPipeError:  # The reader of a pipe has read enough.
        _discard(sys.stdout)
    except Exception as error:
        found = _as_error(error)
        message, *details = found.args
        _end(found.exit_code, [f"error: {message}", *details], debug)


def _as_error(error: Exception) -> DfvtError:
    """The error that the user is told about."""
    if isinstance(error, DfvtError):
        return error
    if isinstance(error, OSError):  # A full disk or a missing permission is not a bug.
        return StageFailed(f"{error.filename or 'system'}: {error.strerror or error}")
    if isinstance(error, MemoryError):
        return StageFailed("this machine has too little memory")
    package = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRAS:
        return MissingDependency(package, EXTRAS[package])
    return DfvtError(f"a bug of dfvt-deploy: {type(error).__name__}: {error}; please report it")


def _end(code: int, lines: Sequence[str], debug: bool) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    for stream, text in ((sys.stderr, lines), (sys.stdout, ())):
        try:
            print_error(*text)
            stream.flush()
        except OSError:
            _discard(stream)
    raise typer.Exit(code)


def _discard(stream: TextIO) -> None:
    """Send a stream nowhere, so that Python's own flush at the end does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def for_each(
    items: Mapping[str, Item],
    call: Callable[[Item], Result],
    show: Callable[[Result], None] = lambda _: None,
) -> Iterator[list[Result]]:
    """Call a function for each item, show each result, and give the block all of them; failures are
    raised after it, as a StageFailed with each item's name and error. A single item's is raised."""
    done: list[Result] = []
    failed: list[str] = []
    for name, item in items.items():
        try:
            done.append(call(item))
            show(done[-1])
        except DfvtError as error:
            if len(items) == 1:
                raise
            message, *details = error.args
            failed += [f"{name}: {message}", *details]
    yield done
    if failed:
        raise StageFailed(f"{len(items) - len(done)} of {len(items)} failed:", *failed)
