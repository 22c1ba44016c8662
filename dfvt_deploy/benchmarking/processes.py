"""Processes of our own that measure, and what any process takes, from /proc."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..errors import StageFailed

#: Seconds in which a function that was told to end may do so.
_END_S = 20


class Worker:
    """A process that runs a function with a connection to this one, ended with the block. It does
    not see Ctrl-C, which this process answers, and ends when this process does. `run` is a function
    of a module, called with the connection and `arguments`; it ends when the connection is
    closed."""

    def __init__(self, run: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(run, theirs, *arguments), daemon=True)
        resource_tracker.ensure_running()  # it unblocks the signal, so not below
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the process inherits it
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()  # `run` ends, with the requests that it has under way
        self._process.join(_END_S)
        self._process.terminate()
        self._process.join()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def ask(self, message: Any) -> Any:
        """The process's answer to a message; raises as `receive`."""
        with suppress(OSError):  # `receive` says how it ended
            self._connection.send(message)
        return self.receive()

    def receive(self) -> Any:
        """The process's next message. Raises StageFailed with its error, or if it has ended."""
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            raise StageFailed(f"its process ended with {code}; is there memory enough?") from None
        if isinstance(message, StageFailed):
            raise message
        return message

    def received(self) -> list[Any]:
        """The messages that are there already."""
        found = []
        while self._connection.poll():
            found.append(self.receive())
        return found


def _serve(run: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    with suppress(EOFError, BrokenPipeError):  # the other end has closed
        try:
            run(connection, *arguments)
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:  # of any runtime
            connection.send(StageFailed(" ".join(str(error).split()) or type(error).__name__))


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU seconds that processes took until now; those that ended count as 0."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory_mb(pids: Iterable[int]) -> float:
    """The most memory that each process held, in MB, added up."""
    kib = 0
    for pid in pids:
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            kib += int(status.partition("VmHWM:")[2].split()[0])
    return kib * 1024 / 1e6
