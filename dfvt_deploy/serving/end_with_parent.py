"""Becomes a command that the kernel ends when its parent is killed.

It runs as a script of its own: `python end_with_parent.py PARENT COMMAND…`. Setting this in a fork
of the parent (`preexec_fn`) would not do: gRPC's threads abort in the fork of a busy client.
"""

import ctypes
import os
import signal
import sys

# Of <sys/prctl.h>.
_SET_PARENT_DEATH_SIGNAL = 1


def main(parent: int, command: list[str]) -> None:
    """Ask for the signal, and become the command, unless the parent has ended already."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() == parent:
        os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
