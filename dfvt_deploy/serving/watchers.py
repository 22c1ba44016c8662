"""Two processes that end a server whose owner was killed and could not do it itself.

They run as a script, without this package: `python watchers.py guard|end_with_parent …`.
"""

import contextlib
import ctypes
import glob
import os
import shutil
import signal
import sys

# Of <sys/prctl.h>.
_SET_PARENT_DEATH_SIGNAL = 1


def guard(group: str, *patterns: str) -> None:
    """Wait for the owner; then kill the process group, and remove the files of the patterns. The
    owner holds the other end of standard input, which closes when the owner dies, however that
    happens. A byte in it says that the owner has ended the server itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(group), signal.SIGKILL)
    for path in (path for pattern in patterns for path in glob.glob(pattern)):  # noqa: PTH207
        if os.path.isdir(path):  # noqa: PTH112
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108


def end_with_parent(parent: str, *command: str) -> None:
    """Become a command that the kernel kills with its parent, unless the parent has ended already.
    In a fork of the parent (`preexec_fn`) gRPC's threads would abort where the client is busy."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() == int(parent):
        os.execv(command[0], command)


if __name__ == "__main__":
    watchers = {"guard": guard, "end_with_parent": end_with_parent}
    watchers[sys.argv[1]](*sys.argv[2:])
