"""A tritonserver process: started, watched, and ended with everything that it started."""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from multiprocessing import connection
from pathlib import Path
from typing import Any

from ..errors import ServerFailed
from ..progress import warn

#: Seconds that a stopping server waits for its requests, and for idle connections, to end.
DRAIN_S = 5
_STOP_TIMEOUT_S = DRAIN_S + 10

#: Restarts in ten minutes after which a server that ends again is given up.
_MOST_RESTARTS = 30
_PERIOD_S = 600

#: Seconds before the second restart within a minute; each further one waits twice as long.
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 8.0

#: Names of everything that a server has outside its log begin like this.
_PREFIX = "dfvt_deploy_"
_SHM = Path("/dev/shm")

# Of <sys/prctl.h>.
_SET_CHILD_SUBREAPER = 36
_GET_CHILD_SUBREAPER = 37


class ServerProcess:
    """A running tritonserver in a process group of its own.

    Nobody but this user can read what it makes. If this process is killed, the guardian ends the
    server.

    environment: environment variables beside those of this process.
    output: file descriptor that the server's log is written to.
    regions: beginning of the names of the server's shared memory regions.
    folder: a folder of its owner, which the guardian removes.
    watched: the Python processes whose end is the server's.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: int,
        regions: str,
        folder: Path,
    ) -> None:
        self._regions = regions
        self.watched: set[int] = set()
        self._unwatched: set[int] = set()
        # The kernel ends the server if this process is killed before its guardian runs; its signal
        # follows the thread that starts the server, so only from the main thread.
        dying_too = [*_watcher("end_with_parent"), str(os.getpid())] if _in_main_thread() else []
        self._popen = subprocess.Popen(
            [*dying_too, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            umask=0o077,
        )
        self._guardian = subprocess.Popen(
            [*_watcher("guard"), str(self.pid), f"{_SHM}/{regions}*", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def close_shared_memory(self) -> None:
        """Let nobody but this user read the regions, which Triton makes readable for all."""
        for region in _SHM.glob(f"{self._regions}*"):
            region.chmod(0o600)

    def limit_memory(self, more: int | None) -> None:
        """Let the server itself, not its Python processes, take so many bytes more than now. A
        request whose body would need more, such as a small gzip of zeros, is then refused. None
        takes the limit away, which new Python processes of the server would inherit."""
        _, most = resource.prlimit(self.pid, resource.RLIMIT_DATA)
        limit = most
        if more is not None:
            status = Path(f"/proc/{self.pid}/status").read_text()
            (now,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmData:"))
            limit = int(now) * 1024 + more
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
        resource.prlimit(self.pid, resource.RLIMIT_DATA, (limit, most))

    def ended(self) -> str | None:
        """How the server ended, such as `exit status 1`; None while it runs."""
        code = self._popen.poll()
        if code is None:
            return None
        return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def steps(self, folders: Sequence[Path]) -> set[int]:
        """The Python processes whose model is in one of the folders."""
        begins = tuple(f"{folder}/" for folder in folders)
        return {pid for pid in children_of(self.pid) if model_of(pid).startswith(begins)}

    def watch_only(self, pids: Set[int]) -> None:
        """Let all other Python processes that there are end, as their models were unloaded."""
        self._unwatched |= (self.watched | set(children_of(self.pid))) - pids
        self.watched = set(pids)

    def wait_for_death(self, seconds: float) -> str | None:
        """Wait so long until the server or one of its Python processes ends; say which, and how."""
        self.watched |= set(children_of(self.pid)) - self._unwatched
        with contextlib.ExitStack() as opened:
            processes: dict[Any, int] = {}
            for pid in (self.pid, *self.watched):
                try:
                    handle = os.pidfd_open(pid)
                except ProcessLookupError:
                    return self._death(pid)
                opened.callback(os.close, handle)
                processes[handle] = pid
            for ended in connection.wait(processes, seconds):
                return self._death(processes[ended])
            return None

    def _death(self, pid: int) -> str:
        if pid == self.pid:
            self._popen.wait()
            return f"Triton ended by itself ({self.ended()})"
        return f"Triton's Python process {pid} ended"

    def stop(self, *, drain: bool = True) -> None:
        """End the server and its children; with `drain` its requests may end first."""
        # For good, a second signal would leave the server behind.
        with _signals_held(acted_on=not drain):
            if drain and self._popen.poll() is None:
                self._popen.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(_STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
            with contextlib.suppress(ChildProcessError):  # none left
                while True:
                    os.waitpid(-self.pid, 0)
            for region in _SHM.glob(f"{self._regions}*"):
                region.unlink(missing_ok=True)
            with contextlib.suppress(OSError, ValueError):  # it is gone, or was told already
                self._guardian.communicate(b"x")


def pause(restarts: list[float], death: str, last_line: str) -> None:
    """Say how the server ended and that it is started again, and wait until it may be, by the
    moments of earlier `restarts`. Raises ServerFailed where these are too many."""
    ages = [time.monotonic() - moment for moment in restarts]
    recent = sum(age <= _PERIOD_S for age in ages)
    if recent >= _MOST_RESTARTS:
        raise ServerFailed(
            f"{death}, after {recent} restarts within {_PERIOD_S // 60} minutes; {last_line}"
        )
    lately = sum(age < 60 for age in ages)
    delay = min(_FIRST_DELAY_S * 2 ** (lately - 1), _LONGEST_DELAY_S) if lately else 0.0
    warn(f"{death}; starting Triton again" + (f" in {delay:g} s" if delay else ""))
    time.sleep(delay)
    restarts.append(time.monotonic())


def children_of(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def model_of(pid: int) -> str:
    """The file of the model that a Python process of Triton runs; empty for any other process."""
    try:
        _, *words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile
        return ""
    return os.fsdecode(words[0]) if words else ""


def _watcher(name: str) -> tuple[str, ...]:
    """The command that runs a function of `watchers` as a process, without the package."""
    return (sys.executable, "-I", "-S", str(Path(__file__).with_name("watchers.py")), name)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def new_name() -> str:
    """The beginning of the names of one server's files, which says whose they are."""
    return f"{_PREFIX}{os.getpid()}_{time.monotonic_ns():x}_"


def runtime_parent() -> Path:
    """The folder of temporary files, unless its path has a space, which Triton cannot take."""
    chosen = Path(tempfile.gettempdir())
    return Path("/tmp") if " " in str(chosen) else chosen


def remove_abandoned() -> None:
    """Remove the files of servers whose owner and guardian were both killed."""
    for path in (*_SHM.glob(f"{_PREFIX}*"), *runtime_parent().glob(f"{_PREFIX}*")):
        owner = path.name.removeprefix(_PREFIX).split("_")[0]
        if not owner.isdigit() or Path("/proc", owner).exists():
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Become the parent of processes that a killed server leaves, to wait for their end."""
    libc = ctypes.CDLL(None)
    before = ctypes.c_int()
    libc.prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_SET_CHILD_SUBREAPER, before.value)


class _Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""


@contextlib.contextmanager
def _handled_by(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Leave the block quietly on SIGTERM or SIGHUP, as a service is expected to."""

    def leave(_signal: int, _frame: object) -> None:
        raise _Terminated

    with contextlib.suppress(_Terminated), _handled_by(leave, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def _signals_held(*, acted_on: bool = True) -> Iterator[None]:
    """Act on a signal when the block ends, as it would be lost before a restart; or never."""
    held: list[int] = []
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if _in_main_thread() else ()
    try:
        with _handled_by(lambda number, _: held.append(number), *ending):
            yield
    finally:
        if held and acted_on:
            signal.raise_signal(held[0])
