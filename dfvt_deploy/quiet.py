"""Silence of packages that print, log and warn about themselves, and of commands: `--quiet`."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

#: Whether `--quiet` was given: no progress, no notes, of the answer the result and next command.
wanted = False


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Hide all output, logging and warnings of the block. The result collects the output."""
    printed = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield printed
    finally:
        logging.disable(before)
