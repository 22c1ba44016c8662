"""A process that ends a server whose owner was killed and could not do it itself.

It runs as a script of its own, without this package: `python guardian.py GROUP PATTERN...`. The
owner holds the other end of its standard input, which closes when the owner dies, however that
happens. A byte in it says that the owner has ended the server itself.
"""

import contextlib
import glob
import os
import shutil
import signal
import sys


def main(group: int, patterns: list[str]) -> None:
    """Wait for the owner; then kill the process group, and remove the files of the patterns."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    for pattern in patterns:
        for path in glob.glob(pattern):  # noqa: PTH207
            if os.path.isdir(path):  # noqa: PTH112
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(path)  # noqa: PTH108


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
