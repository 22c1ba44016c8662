"""How a command ends: one message on stderr, and the exit code of its kind; one that does the same
for several models goes on past one that fails."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
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
    also print the traceback. SIGTERM and SIGHUP end the body as Ctrl-C does, so that nothing is
    left behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        yield
        sys.stdout.flush()
        return
    except KeyboardInterrupt:
        _end(INTERRUPTED, ["interrupted"], debug)
    except typer.Exit:
        raise
    except BrokenPipeError:  # The reader of a pipe has read enough.
        _discard(sys.stdout)
        return
    except DfvtError as error:
        _end(error.exit_code, _lines(error), debug)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            _bug(error, debug)
        missing = MissingDependency(package, EXTRAS[package])
        _end(missing.exit_code, _lines(missing), debug)
    except OSError as error:  # A full disk or a missing permission is not a bug.
        reason = f"{error.filename or 'system'}: {error.strerror or error}"
        _end(StageFailed.exit_code, [f"error: {reason}"], debug)
    except MemoryError:
        _end(StageFailed.exit_code, ["error: this machine has too little memory"], debug)
    except Exception as error:
        _bug(error, debug)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _bug(error: Exception, debug: bool) -> NoReturn:
    reason = f"a bug of dfvt-deploy: {type(error).__name__}: {error}; please report it"
    _end(DfvtError.exit_code, [f"error: {reason}"], debug)


def _lines(error: DfvtError) -> list[str]:
    message, *details = error.args
    return [f"error: {message}", *details]


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
def for_each(items: Mapping[str, Item], call: Callable[[Item], Result]) -> Iterator[list[Result]]:
    """Call a function for each item and give the block the results; failures are raised after it,
    as a StageFailed with the name of each failed item and its error. That of a single item is
    raised as it is."""
    done: list[Result] = []
    failed: list[str] = []
    for name, item in items.items():
        try:
            done.append(call(item))
        except DfvtError as error:
            if len(items) == 1:
                raise
            message, *details = error.args
            failed += [f"{name}: {message}", *details]
    yield done
    if failed:
        raise StageFailed(f"{len(items) - len(done)} of {len(items)} failed:", *failed)
