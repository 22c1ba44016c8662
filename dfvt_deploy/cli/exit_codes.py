"""How a command ends: one message on stderr, and the exit code of its kind."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

import typer

from ..errors import EXTRAS, DfvtError, MissingDependency, StageFailed
from .output import print_error

INTERRUPTED = 130


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
